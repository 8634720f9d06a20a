"""Reproduce the ordering of SRL's paper in two small designs, by the shipped jobs, and write the rows.

    python -m tests.benchmarks.reproduction.run --work out/reproduction

First each kind of stage chooses its learning rate among the same three on a pilot seed; then every arm runs with five
other seeds. What is done is kept in the work folder and adopted, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from stepforge.contracts.jobs import JobSpec, Plugin
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.work import GateWork, LocalModel
from tests.benchmarks.reproduction.arms import DESIGNS, LABELS, RATES, SEARCHED, Arm, Design, arms
from tests.support.experiment import ROOT, Runner, cells, equal_token_steps, head_of

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "reproduction"
TASKS = Path(__file__).parent / "tasks"
PILOT = 100
Rates = dict[str, float]


class Trial:
    """One design with one seed: its data, and each arm's model once it is asked for."""

    def __init__(self, design: Design, seed: int, work: Path, plugin: Path) -> None:
        self.design, self.seed = design, seed
        self.runner = Runner(design.task, work, plugin=Plugin(domain=f"{design.task}:DOMAIN"), plugin_code=plugin)
        _, self.data = self.runner.run(design.dataset.model_copy(update={"seed": seed}), {})
        _, self.gate = self.runner.run(GateWork(), {"data": self.data})

    def train(self, arm: Arm, parent: Path | None, rate: float | None) -> tuple[JobSpec, Path]:
        changes = {"seed": self.seed} | ({} if rate is None else {"learning_rate": rate})
        inputs = {"data": self.data, "gate": self.gate} | ({} if parent is None else {"model": parent})
        model = self.design.model if parent is None else LocalModel()
        done = self.runner.run(arm.work.model_copy(update=changes), inputs, model)
        print(f"{self.design.task} seed {self.seed} {arm.name} rate {rate}", file=sys.stderr, flush=True)
        return done

    def evaluate(self, model: Path) -> tuple[JobSpec, list[dict[str, Any]]]:
        work = self.design.evaluation.model_copy(update={"seed": self.seed})
        spec, result = self.runner.run(work, {"data": self.data, "model": model})
        return spec, cells(result)

    def hard(self, model: Path) -> float:
        """Share of sampled answers to hard problems that are right."""
        _, found = self.evaluate(model)
        cell = next(c for c in found if c["split"] == "test_known" and c["decoding"] == "sampled")
        return sum(cell["accepted"]) / len(cell["accepted"]) / cell["completions"]


def search(design: Design, work: Path, plugin: Path) -> tuple[Rates, list[dict[str, Any]]]:
    """The best rate for each kind of stage on the pilot seed, and the score of every rate."""
    trial = Trial(design, PILOT, work, plugin)
    chosen: Rates = {}
    models: dict[str, Path] = {}
    rows: list[dict[str, Any]] = []
    models["base"] = trial.train(arms(design, sft_steps=None)[0], None, None)[1]
    for kind, name in SEARCHED.items():
        steps = equal_token_steps(models["srl"], trial.data) if "srl" in models else None
        arm = next(arm for arm in arms(design, sft_steps=steps) if arm.name == name)
        assert arm.parent is not None
        tried = {rate: trial.train(arm, models[arm.parent], rate)[1] for rate in RATES}
        scores = {rate: trial.hard(model) for rate, model in tried.items()}
        chosen[kind] = max(scores, key=scores.__getitem__)
        models[name] = tried[chosen[kind]]
        rows += [{"design": design.task, "kind": kind, "rate": rate, "hard": score} for rate, score in scores.items()]
    return chosen, rows


def run_seed(design: Design, seed: int, rates: Rates, work: Path, plugin: Path) -> list[dict[str, Any]]:
    """All arms of one seed. Returns the rows to be committed."""
    trial = Trial(design, seed, work, plugin)
    trained: dict[str, tuple[JobSpec, Path]] = {}

    def train(listed: list[Arm]) -> None:
        for arm in listed:
            if arm.name not in trained:
                parent = None if arm.parent is None else trained[arm.parent][1]
                trained[arm.name] = trial.train(arm, parent, rates.get(arm.kind))

    train(arms(design, sft_steps=None))
    train(arms(design, sft_steps=equal_token_steps(trained["srl"][1], trial.data)))
    rows = []
    for name in LABELS:
        spec, model = trained[name]
        evaluation, found = trial.evaluate(model)
        head = {"design": design.task, "seed": seed, "arm": name, "rate": spec.work.learning_rate}
        head |= {"train_spec": spec.identity, "evaluate_spec": evaluation.identity, **head_of(model)}
        rows += [head | cell for cell in found]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    started = time.perf_counter()
    plugin = staged_tasks(given.work)
    designs = [DESIGNS[name] for name in given.designs]
    with ProcessPoolExecutor(given.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        searches = [pool.submit(search, d, given.work / d.task / "pilot", plugin) for d in designs]
        found = {d.task: s.result() for d, s in zip(designs, searches, strict=True)}
        runs = [
            pool.submit(run_seed, d, seed, found[d.task][0], given.work / d.task / str(seed), plugin)
            for seed in given.seeds
            for d in designs
        ]
        rows = [row for run in runs for row in run.result()]
    write(RESULTS / "rates.ndjson", [row for _, searched in found.values() for row in searched])
    for design in designs:
        write(RESULTS / f"{design.task}.ndjson", [row for row in rows if row["design"] == design.task])
    print(f"{len(rows)} rows in {(time.perf_counter() - started) / 60:.0f} minutes: {RESULTS}")


def staged_tasks(work: Path) -> Path:
    """The tasks' code as a plugin's artifact."""
    folder = work / "plugin"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(TASKS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_manifest(folder, "plugin")
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
