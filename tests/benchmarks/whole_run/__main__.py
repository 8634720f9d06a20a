"""Run SRL -> RLVR by every arm, seed by seed, and write the rows: `python -m tests.benchmarks.whole_run --work FOLDER`.

All arms of a seed start from the same base model and run one after another, stage by stage, each in a process of its
own; their order turns with the seed, so that what else the machine does falls on all alike. A stage's time is that of
its process, from reading its input to writing its artifact: processor time of it and its children, and the clock's.
Imports are done before. What is measured is kept in the work folder, so a run that was cut off goes on.

    python -m tests.benchmarks.whole_run --work out/whole_run --seeds 0 --designs carry   # a part; write with the table
    python -m tests.benchmarks.whole_run.table                                            # the page and BENCH lines
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.jobs import Plugin
from stepforge.contracts.work import GateWork, LocalModel
from tests.benchmarks.reproduction.arms import DESIGNS, Design
from tests.benchmarks.reproduction.run import staged_tasks
from tests.benchmarks.whole_run.arms import ARMS, STAGES, works
from tests.benchmarks.whole_run.table import RESULTS, report
from tests.support.experiment import Runner, cells

Row = dict[str, Any]


def preload() -> None:
    """What both kinds of stage import, so that forked processes have it."""
    import transformers
    import trl

    for name in ("evaluation.evaluate", "main", "training.rlvr", "training.sft"):
        import_module(f"stepforge_jobs.{name}")
    import_module("tests.benchmarks.whole_run.stock")
    # Lazy modules load what is asked for.
    for module, name in ((trl, "GRPOTrainer"), (transformers, "AutoModelForCausalLM")):
        getattr(module, name)


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Seed:
    """One design with one seed: its data, its base model, and each arm's stages."""

    def __init__(self, design: Design, seed: int, work: Path, plugin: Path) -> None:
        self.design, self.seed, self.work = design, seed, work
        self._plugin = plugin
        self.runner = self._runner("common")
        _, self.data = self.runner.run(design.dataset.model_copy(update={"seed": seed}), {})
        _, self.gate = self.runner.run(GateWork(), {"data": self.data})
        _, self.base = self.runner.run(design.base.model_copy(update={"seed": seed}), self._inputs(), design.model)

    def _runner(self, name: str) -> Runner:
        plugin = Plugin(domain=f"{self.design.task}:DOMAIN")
        return Runner(self.design.task, self.work / name, plugin=plugin, plugin_code=self._plugin)

    def _inputs(self, **more: Path) -> dict[str, Path]:
        return {"data": self.data, "gate": self.gate, **more}

    def stage(self, arm: str, stage: str, parent: Path) -> tuple[Path, Row]:
        """The stage's model and what it took; from the work folder where both are there."""
        from tests.benchmarks.whole_run import stock

        kept = self.work / arm / f"{stage}.json"
        work = works(self.design, arm, self.seed)[stage]
        by = stock.run if arm == "trl" else None
        if not kept.is_file():
            shutil.rmtree(self.work / arm / stage, ignore_errors=True)
        before, started, load = seconds_of_children(), time.perf_counter(), os.getloadavg()[0]
        spec, model = self._runner(f"{arm}/{stage}").run(work, self._inputs(model=parent), LocalModel(), by=by)
        if not kept.is_file():
            row = {"cpu_seconds": round(seconds_of_children() - before, 2)}
            row |= {"seconds": round(time.perf_counter() - started, 2), "load": round(load, 1), "spec": spec.identity}
            kept.write_text(json.dumps(row | {"phases": phases_of(model)}))
            print(f"{self.design.task} seed {self.seed} {arm} {stage}: {row}", file=sys.stderr, flush=True)
        return model, json.loads(kept.read_text())

    def rows(self) -> list[Row]:
        """All arms, one stage after the other."""
        names = list(ARMS)
        turn = self.seed % len(names)
        models = dict.fromkeys(names, self.base)
        took: dict[str, dict[str, Row]] = {name: {} for name in names}
        for stage in STAGES:
            for name in [*names[turn:], *names[:turn]]:
                models[name], took[name][stage] = self.stage(name, stage, models[name])
        found: list[Row] = []
        for name in names:
            work = self.design.evaluation.model_copy(update={"seed": self.seed})
            _, result = self.runner.run(work, {"data": self.data, "model": models[name]})
            head = {"design": self.design.task, "seed": self.seed, "arm": name, "stages": took[name]}
            found += [head | cell for cell in cells(result)]
        return found


def phases_of(model: Path) -> dict[str, float]:
    """Seconds of the clock by phase, of all steps together."""
    if (stock := model / "trl.json").is_file():
        phases = json.loads(stock.read_text())["phases"]
        return {name: round(value, 2) for name, value in phases.items()}
    total: dict[str, float] = {}
    for line in (model / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name == "seconds" or name.endswith("_seconds"):
                total[name] = total.get(name, 0.0) + value
    return {name: round(value, 2) for name, value in total.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="replace the committed rows by these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    started, load = time.perf_counter(), os.getloadavg()[0]
    preload()
    print(f"whole_run: imports of {time.perf_counter() - started:.0f} s done, load {load:.1f}", file=sys.stderr)
    plugin = staged_tasks(given.work)
    for name in given.designs:
        rows = [
            row
            for seed in given.seeds
            for row in Seed(DESIGNS[name], seed, given.work / name / str(seed), plugin).rows()
        ]
        folder = RESULTS if given.write else given.work
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes, load {load:.1f} to {os.getloadavg()[0]:.1f}")
    for line in report(folder):
        print(line)


if __name__ == "__main__":
    main()
