"""Run the held-out experiment: the shipped jobs, arm by arm and seed by seed, and write their rows.

python -m tests.benchmarks.held_out.run --seeds 0 1 2 3 4 --work out/held-out

What is done is kept in the work folder and adopted, so a run that was cut off goes on. One seed a core at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.work import GateWork, LocalModel
from stepforge.recipes import load_recipe
from tests.benchmarks.held_out.arms import ARMS, Arm, arms
from tests.support.experiment import ROOT, Runner, cells, equal_token_steps, head_of

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "held_out"


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
        head = {"seed": seed, "arm": name, "train_spec": spec.identity, "evaluate_spec": evaluation.identity}
        rows += [head | head_of(artifact) | cell for cell in cells(result)]
    return rows


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
