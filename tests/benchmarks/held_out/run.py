"""Run the held-out experiment: the shipped jobs, arm by arm and seed by seed, and write their rows.

python -m tests.benchmarks.held_out.run --seeds 0 1 2 3 4 --work out/held-out

What is done is kept in the work folder and adopted, so a run that was cut off goes on. One seed a core at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from stepforge.code_digest import code_digests
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef, GateWork, JobSpec, LocalModel, Plugin, ScratchModel
from stepforge.contracts.manifests import MANIFEST, read_manifest
from stepforge.recipes import load_recipe
from tests.benchmarks.held_out.arms import ARMS, Arm, arms

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "held_out"


class Runner:
    """Runs job specs below one folder, each under SageMaker's folder contract in a process of its own."""

    def __init__(self, domain: str, work: Path, plugin: Plugin | None = None) -> None:
        self.domain = domain
        self.work = work
        self.plugin = plugin
        roots = {"stepforge": ROOT / "sdk" / "stepforge", "stepforge_jobs": ROOT / "jobs" / "stepforge_jobs"}
        self.code = code_digests(roots, ROOT / "containers" / "train" / "requirements.lock")

    def run(
        self, work: Any, inputs: dict[str, Path], model: ScratchModel | LocalModel | None = None
    ) -> tuple[JobSpec, Path]:
        """The spec of a job and the folder of its artifact; runs it unless that is there already."""
        refs = {
            channel: ArtifactRef(uri=f"s3://held-out/{channel}/", sha256=read_manifest(folder).sha256)
            for channel, folder in inputs.items()
        }
        spec = JobSpec(
            domain=self.domain,
            work=work,
            model=model,
            inputs=refs,
            plugin=self.plugin,
            code_sha256=self.code[work.type],
        )
        base = self.work / spec.prefix
        artifact = base / "model"
        if not (artifact / MANIFEST).is_file():
            for channel, folder in inputs.items():
                target = base / "input" / "data" / channel
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(folder, target)
            (base / "input" / "data" / "spec").mkdir(parents=True, exist_ok=True)
            (base / "input" / "data" / "spec" / "spec.json").write_bytes(canonical_json(spec))
            process = multiprocessing.get_context("fork").Process(target=_run_job, args=(base,))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"{spec.prefix} failed: see {base / 'log'}")
        return spec, artifact


def _run_job(base: Path) -> None:
    log = os.open(base / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["SAGEMAKER_BASE_DIR"] = str(base)
    from stepforge_jobs.main import main

    os._exit(main(["train"]))


def run_seed(domain: str, seed: int, work: Path) -> list[dict[str, Any]]:
    """All arms of one seed. Returns the rows to be committed."""
    runner, recipe = Runner(domain, work), load_recipe(domain)
    _, data = runner.run(recipe.dataset.model_copy(update={"seed": seed}), {})
    _, gate = runner.run(GateWork(), {"data": data})
    trained: dict[str, tuple[JobSpec, Path]] = {}

    def train(arm: Arm) -> None:
        start = {} if arm.parent is None else {"model": trained[arm.parent][1]}
        model = recipe.model if arm.parent is None else LocalModel()
        trained[arm.name] = runner.run(arm.work, {"data": data, "gate": gate, **start}, model)
        print(f"seed {seed} {arm.name}", file=sys.stderr, flush=True)

    for arm in arms(domain, seed=seed, sft_steps=None):
        train(arm)
    steps = equal_token_steps(trained["srl"][1], data)
    for arm in arms(domain, seed=seed, sft_steps=steps):
        if arm.name not in trained:
            train(arm)
    rows = []
    for name in ARMS:
        spec, artifact = trained[name]
        evaluation, result = runner.run(
            recipe.evaluation.model_copy(update={"seed": seed}), {"data": data, "model": artifact}
        )
        stage = json.loads((artifact / "run.json").read_text())
        head = {"seed": seed, "arm": name, "train_spec": spec.identity, "evaluate_spec": evaluation.identity}
        head |= {"tokens": stage["tokens"], "steps": stage["steps"], "seconds": round(stage["seconds"], 1)}
        rows += [head | cell for cell in cells(result)]
    return rows


def equal_token_steps(srl: Path, data: Path, *, batch_size: int = 32) -> int:
    """SFT steps whose completion tokens (words and the end) add up to those of SRL's optimiser steps."""
    tokens = json.loads((srl / "run.json").read_text())["tokens"]
    lengths = []
    for shard in sorted((data / "records").glob("train-*.jsonl")):
        for line in shard.read_text().splitlines():
            record = json.loads(line)
            lengths.append(sum(len(step["action"].split()) for step in record["steps"]) + 1)
    return max(1, round(tokens / (batch_size * sum(lengths) / len(lengths))))


def cells(result: Path) -> list[dict[str, Any]]:
    """Accepted completions for each record, by split and decoding, in the order of the records."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for line in (result / "rows.ndjson").read_text().splitlines():
        row = json.loads(line)
        cell = found.setdefault((row["split"], row["decoding"]), {})
        cell.setdefault(row["record"], []).append(int(row["accepted"]))
    return [
        {
            "split": split,
            "decoding": decoding,
            "completions": len(next(iter(cell.values()))),
            "accepted": [sum(values) for _, values in sorted(cell.items())],
        }
        for (split, decoding), cell in sorted(found.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", default="facial")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=context) as pool:
        runs = [pool.submit(run_seed, given.domain, seed, given.work / str(seed)) for seed in given.seeds]
        rows = [row for run in runs for row in run.result()]
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{given.domain}.ndjson"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} rows: {target}")


if __name__ == "__main__":
    main()
