"""Two processes that train as one (gloo): the same as one process on the same batch, to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import environment, job_folder
from tests.support.kills import terminate_in_step

from stepforge.contracts.manifests import sha256_of
from stepforge.contracts.metrics import MEASURED, Metric
from stepforge.contracts.work import KlControl, LocalModel, RlvrWork, SftWork, SrlWork, TrainingWork
from stepforge_jobs.launch import PROCESSES, Plan, free_port
from stepforge_jobs.launch import environment as rank_environment
from stepforge_jobs.prefixes.packing import Pack
from stepforge_jobs.training import scoring, stage
from stepforge_jobs.training.ranks import BUCKET, buckets, ranks

STEPS = 6
RL = {"steps": STEPS, "checkpoint_every": 3, "batch_prompts": 5, "group_size": 4, "max_new_tokens": 10}
WORKS: dict[str, TrainingWork] = {
    "sft": SftWork(steps=STEPS, checkpoint_every=3, batch_size=7),
    "srl": SrlWork(asking="plain", similarity="words", instances="all", **RL),
    "trajectories": SrlWork(asking="plain", similarity="words", instances="all", order="trajectories", **RL),
    "rlvr": RlvrWork(reward="partial", beta=0.05, keep="best", **RL),
    "updates": RlvrWork(reward="partial", loss="dapo", updates_per_batch=2, normalisation="running", **RL),
    "ppo": RlvrWork(algorithm="ppo", reward="partial", beta=0.02, updates_per_batch=2, **RL),
    "dpo": RlvrWork(algorithm="dpo", reward="partial", beta=0.1, **RL),
    "held": RlvrWork(reward="partial", kl=KlControl(cap=2e-3), learning_rate=3e-3, warmup_steps=0, **RL),
}
PLAN = Plan(here=2, host=0, hosts=("localhost",), interface=None)


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    import accelerate  # noqa: F401 - before any fork


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PROBE_PROMPTS", 5)


def lay_out(base: Path, world: World, work: TrainingWork) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return base


def counting_rows(path: Path) -> None:
    """Let the process write how many rows went through its network in training and probes."""
    original = scoring.score

    def score(network: object, prompts: list[list[int]], *args: object, **named: object) -> scoring.Scored:
        with path.open("a") as stream:
            stream.write(f"{len(prompts)}\n")
        return original(network, prompts, *args, **named)  # type: ignore[arg-type]

    from stepforge_jobs.training import dpo, ppo, sft, sharing

    for module in (scoring, stage, sharing, ppo, dpo, sft):
        module.score = score  # type: ignore[attr-defined]
    packed = sharing.log_probabilities

    def log_probabilities(network: object, pack: Pack, **named: object) -> object:
        with path.open("a") as stream:
            stream.write(f"{len(pack.rows)}\n")
        return packed(network, pack, **named)  # type: ignore[arg-type]

    sharing.log_probabilities = log_probabilities  # type: ignore[assignment]


def rows_through(path: Path) -> int:
    return sum(int(line) for line in path.read_text().split())


def two_ranks(
    base: Path, prepare: Callable[[int], None] = lambda _: None, *, hosts: tuple[Path, Path] | None = None
) -> list[int]:
    """Exit codes of two forked ranks, in one folder or each on a host of its own."""
    port = free_port()

    def join(rank: int) -> Callable[[], None]:
        def enter() -> None:
            from accelerate.state import AcceleratorState

            names = ("algo-1", "algo-2")
            plan, local = (PLAN, rank) if hosts is None else (Plan(1, rank, hosts=names, interface=None), 0)
            os.environ |= rank_environment(plan, local, ("127.0.0.1", port)) | {"OMP_NUM_THREADS": "1"}
            ranks.cache_clear()
            # Where TRL was imported in the parent, accelerate has settled there that it is the only process.
            AcceleratorState._reset_state(reset_partial_state=True)
            prepare(rank)

        return enter

    folders = hosts or (base, base)
    return [forked.wait(pid) for pid in [forked.fork(folders[rank], prepare=join(rank)) for rank in range(2)]]


def log_of(base: Path) -> str:
    return (base / "log.txt").read_text()


def close(one: Path, two: Path) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-3, atol=2e-5), name
    lines = [[json.loads(line) for line in (m / "metrics.jsonl").read_text().splitlines()] for m in (one, two)]
    assert len(lines[0]) == len(lines[1]) == STEPS
    for row, other in zip(*lines, strict=True):
        for values in (row, other):
            for name in MEASURED & values.keys():
                del values[name]
        # Two ranks may both compute a prompt that one computes once.
        row.pop(Metric.TOKEN_RATIO, None), other.pop(Metric.TOKEN_RATIO, None)
        assert row == pytest.approx(other, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", WORKS)
def test_two_processes_do_half_the_work_each_and_learn_what_one_learns(world: World, tmp_path: Path, name: str) -> None:
    alone = lay_out(tmp_path / "alone", world, WORKS[name])
    assert forked.run(alone, prepare=lambda: counting_rows(tmp_path / "alone.txt")) == 0
    base = lay_out(tmp_path / "job", world, WORKS[name])
    assert two_ranks(base, lambda rank: counting_rows(tmp_path / f"rank{rank}.txt")) == [0, 0], log_of(base)
    close(alone / "model", base / "model")
    whole = rows_through(tmp_path / "alone.txt")
    parts = [rows_through(tmp_path / f"rank{rank}.txt") for rank in range(2)]
    assert sum(parts) == whole
    assert min(parts) > 0.4 * whole


def test_two_hosts_learn_the_very_weights_of_two_processes_on_one(world: World, tmp_path: Path) -> None:
    one = lay_out(tmp_path / "one", world, WORKS["sft"])
    assert two_ranks(one) == [0, 0], log_of(one)
    hosts = (lay_out(tmp_path / "algo-1", world, WORKS["sft"]), lay_out(tmp_path / "algo-2", world, WORKS["sft"]))
    assert two_ranks(hosts[0], hosts=hosts) == [0, 0], log_of(hosts[0]) + log_of(hosts[1])
    assert sha256_of(hosts[0] / "model/model.safetensors") == sha256_of(one / "model/model.safetensors")
    assert not list(hosts[1].glob("model/*.safetensors")), "the first host speaks for both"


def test_sigterm_to_one_rank_stops_both_at_the_same_step_and_both_go_on_from_there(
    world: World, tmp_path: Path
) -> None:
    alone = forked.succeed(lay_out(tmp_path / "alone", world, WORKS["held"]))
    base = lay_out(tmp_path / "job", world, WORKS["held"])
    assert two_ranks(base, lambda rank: terminate_in_step(3)() if rank == 1 else None) == [143, 143], log_of(base)
    assert sorted(path.name for path in base.glob("checkpoints/*/step-*"))[-1] == "step-00000004"
    assert two_ranks(base) == [0, 0], log_of(base)
    assert '{"event": "resumed", "step": 4}' in log_of(base)
    close(alone, base / "model")


def test_the_entry_point_starts_a_process_for_each_and_ends_as_they_end(world: World, tmp_path: Path) -> None:
    work = WORKS["sft"]
    base = lay_out(tmp_path / "job", world, work)
    command = [sys.executable, "-m", "stepforge_jobs.main", "train"]
    run = subprocess.run(
        command, env=environment(base) | {PROCESSES: "2"}, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stderr
    close(forked.succeed(lay_out(tmp_path / "alone", world, work)), base / "model")
    assert run.stdout.count('"event": "started"') == 1, "only rank 0 speaks"


def test_a_rank_that_dies_leaves_a_job_that_failed_with_the_first_reason(world: World, tmp_path: Path) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["sft"])

    def fail(rank: int) -> None:
        def refuse() -> None:
            raise ValueError("the reason")

        if rank == 1:
            from tests.support.kills import in_step

            in_step(2, refuse)()

    codes = two_ranks(base, fail)
    assert codes[1] == 1
    assert codes[0] != 0
    assert (base / "output" / "failure").read_text() == "ValueError: the reason"
    assert not (base / "model" / "manifest.json").exists()


def test_buckets_keep_the_order_and_the_kinds_apart() -> None:
    tensors = [torch.empty(3), torch.empty(4), torch.empty(2, dtype=torch.float64), torch.empty(5)]
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors)] == [[3, 4], [2], [5]]
    large = torch.empty(1).expand(BUCKET)
    assert [len(bucket) for bucket in buckets([large, large])] == [1, 1]
