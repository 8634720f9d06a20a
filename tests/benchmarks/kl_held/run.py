"""Does a stage stay within .1 nats a token of where it began? Stock settings against a KL that is held, by job specs.

python -m tests.benchmarks.kl_held.run --seeds 0 1 2 3 4 --work out/kl-held

The arms differ in `beta` and `kl` alone. The task is the counting domain of the tests: a base model that counts up well
and down badly learns to count down, with no rehearsal of what it knows. About half a minute a seed and core.
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

from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.work import (
    DatasetWork,
    EvaluateWork,
    GateWork,
    KlControl,
    LocalModel,
    RlvrWork,
    ScratchModel,
    SftWork,
)
from tests.support.experiment import ROOT, Runner, cells
from tests.support.job_folders import COUNTING, TINY, counting_plugin

ROWS = ROOT / "tests" / "benchmarks" / "results" / "kl_held" / "counting.ndjson"

STOCK = RlvrWork(
    steps=80, learning_rate=1e-3, max_new_tokens=12, checkpoint_every=10, rehearsal_share=0.0, reward="outcome"
)
"""GRPO as its library ships it: no penalty, no rehearsal."""
ARMS: dict[str, RlvrWork] = {
    "stock": STOCK,
    "fixed": STOCK.model_copy(update={"beta": 0.1}),
    "ziegler": STOCK.model_copy(
        update={"kl": KlControl(controller="ziegler", penalise="rollouts", guard=False, beta_min=0.1)}
    ),
    "held-rollouts": STOCK.model_copy(update={"kl": KlControl(penalise="rollouts")}),
    "held": STOCK.model_copy(update={"kl": KlControl()}),
}
DATASET = DatasetWork(domain="counting", corpus=1_500, train=36, rl=40, test=60, shard_rows=500)
BASE = SftWork(name="base", split="corpus", steps=250, batch_size=64, learning_rate=5e-3, checkpoint_every=100)
EVALUATION = EvaluateWork(samples=16, max_new_tokens=12, bootstrap=200)


def run_seed(seed: int, work: Path, names: tuple[str, ...] = tuple(ARMS)) -> list[dict[str, Any]]:
    """The base and the arms of one seed. Returns the rows to be committed; a base has no KL to itself."""
    import peft  # noqa: F401 - before any fork, so that no job imports it again
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    plugin = work / "plugin"
    if not (plugin / MANIFEST).is_file():
        counting_plugin(plugin)
    runner = Runner("counting", work, plugin=COUNTING, plugin_code=plugin)

    def run(job: Any, start: ScratchModel | LocalModel | None = None, **inputs: Path) -> tuple[str, Path]:
        spec, artifact = runner.run(job.model_copy(update={"seed": seed}), inputs, start)
        return spec.identity, artifact

    _, data = run(DATASET)
    spec, gate = runner.run(GateWork(), {"data": data})
    base_spec, base = run(BASE, TINY, data=data, gate=gate)
    trained = {"base": (base_spec, base)}
    for name in names:
        trained[name] = run(ARMS[name], LocalModel(), data=data, gate=gate, model=base)
    rows = []
    for name, (spec, model) in trained.items():
        evaluation, result = run(EVALUATION, data=data, model=model)
        lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
        head = {"seed": seed, "arm": name, "train_spec": spec, "evaluate_spec": evaluation}
        for key in ("kl", "kl_refused", "kl_hard", "kl_hard_completion", "kl_hard_bound"):
            head[key] = [line[key] for line in lines if key in line]
        rows += [head | cell for cell in cells(result) if cell["decoding"] == "sampled"]
        print(f"seed {seed} {name}: KL at most {max(head['kl'], default=0.0):.3f}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=context) as pool:
        runs = [pool.submit(run_seed, seed, given.work / str(seed)) for seed in given.seeds]
        rows = [row for run in runs for row in run.result()]
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} rows: {ROWS}")


if __name__ == "__main__":
    main()
