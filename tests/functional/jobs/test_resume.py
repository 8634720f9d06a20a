"""Kill -9 at any point: the same command finishes with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import job_folder

from stepforge.contracts.jobs import KlControl, LocalModel, Lora, RlvrWork, SftWork, SrlWork, TrainingWork
from stepforge.contracts.manifests import sha256_of
from stepforge_jobs.training import checkpoints, loop

STEPS = 12
RL = {"steps": STEPS, "checkpoint_every": 4, "batch_prompts": 4, "group_size": 4, "warmup_steps": 2}
WORKS: dict[str, TrainingWork] = {
    "sft": SftWork(steps=STEPS, checkpoint_every=4, batch_size=8),
    "sft-lora": SftWork(steps=STEPS, checkpoint_every=4, batch_size=8, lora=Lora(r=2, alpha=4, dropout=0.2)),
    "srl": SrlWork(max_new_tokens=3, asking="plain", **RL),
    "rlvr": RlvrWork(max_new_tokens=10, reward="partial", beta=0.05, **RL),
    "dapo": RlvrWork(
        max_new_tokens=10,
        reward="partial",
        loss="dapo",
        updates_per_batch=2,
        normalisation="running",
        beta=0.02,
        kl_penalty="k1_in_reward",
        **RL,
    ),
    "ppo": RlvrWork(algorithm="ppo", max_new_tokens=10, reward="partial", beta=0.02, updates_per_batch=2, **RL),
    "dpo": RlvrWork(algorithm="dpo", max_new_tokens=10, reward="partial", beta=0.1, **RL),
    # A cap that is breached, so that what a refusal leaves behind must be found again.
    "held": RlvrWork(
        max_new_tokens=10, reward="partial", kl=KlControl(cap=2e-3), **RL | {"learning_rate": 3e-3, "warmup_steps": 0}
    ),
}


def lay_out(base: Path, world: World, work: TrainingWork) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return base


@pytest.fixture(scope="module")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of the weights of each stage that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    return {name: weights(forked.succeed(lay_out(root / name, world, work))) for name, work in WORKS.items()}


def weights(model: Path) -> str:
    return sha256_of(model / "model.safetensors")


def die_at_write(count: int) -> Callable[[], None]:
    """Kill the process in the middle of its `count`-th write to a checkpoint: half the bytes are there."""

    def prepare() -> None:
        written = Counter[str]()
        original = checkpoints._write

        def write(path: Path, data: bytes) -> None:
            written["files"] += 1
            if written["files"] == count:
                path.write_bytes(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, data)

        checkpoints._write = write

    return prepare


def die_in_step(step: int) -> Callable[[], None]:
    """Kill the process between a step's gradient and the next."""

    def prepare() -> None:
        original = loop.learning_rate

        def rate(work: object, at: int) -> float:
            if at == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(work, at)  # type: ignore[arg-type]

        loop.learning_rate = rate

    return prepare


def seeded_kills() -> list[tuple[str, str, int]]:
    """A kill in a step and one in a write for each stage; a checkpoint is five writes."""
    rng = random.Random(20)
    return [
        (name, kind, rng.randint(1, 11) if kind == "step" else rng.randint(1, 15))
        for name in WORKS
        for kind in ("step", "write")
    ]


@pytest.mark.parametrize(("name", "kind", "at"), seeded_kills(), ids=lambda value: str(value))
def test_a_job_killed_and_started_again_has_the_same_weights_and_each_metric_once(
    world: World, uninterrupted: dict[str, str], tmp_path: Path, name: str, kind: str, at: int
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS[name])
    assert forked.run(base, prepare=die_in_step(at) if kind == "step" else die_at_write(at)) == -signal.SIGKILL
    assert not (base / "model" / "manifest.json").exists()
    model = forked.succeed(base)
    assert weights(model) == uninterrupted[name]
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all("loss" in row for row in rows)
    resumed = '"event": "resumed"' in (base / "log.txt").read_text()
    assert resumed == (at >= 4 if kind == "step" else at > 5)


def test_a_damaged_checkpoint_is_walked_past_to_the_same_weights(
    world: World, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["srl"])
    assert forked.run(base, prepare=die_in_step(10)) == -signal.SIGKILL
    newest = sorted(base.glob("checkpoints/*/step-*"))[-1]
    data = bytearray((newest / "weights.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "weights.safetensors").write_bytes(data)
    assert weights(forked.succeed(base)) == uninterrupted["srl"]
    log = (base / "log.txt").read_text()
    assert "checkpoint step-00000008 is damaged (weights.safetensors has another digest" in log
    assert '{"event": "resumed", "step": 4}' in log


@pytest.mark.parametrize("name", ["rlvr", "held"])
def test_sigterm_leaves_a_checkpoint_of_that_step_and_no_failure(
    world: World, uninterrupted: dict[str, str], tmp_path: Path, name: str
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS[name])

    def terminate_in_step_six() -> None:
        original = loop.learning_rate

        def rate(work: object, at: int) -> float:
            if at == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(work, at)  # type: ignore[arg-type]

        loop.learning_rate = rate

    assert forked.run(base, prepare=terminate_in_step_six) == 143
    assert not (base / "output" / "failure").exists()
    assert not (base / "model" / "manifest.json").exists()
    assert sorted(p.name for p in base.glob("checkpoints/*/step-*")) == ["step-00000004", "step-00000006"]
    # No probe has seen step 6, so what the guard may go back to travels with it.
    beside = {p.name for p in base.glob("checkpoints/*/step-00000006/accepted-*")}
    assert beside == ({"accepted-weights.safetensors", "accepted-optimiser.safetensors"} if name == "held" else set())
    assert weights(forked.succeed(base)) == uninterrupted[name]


def test_a_kill_at_an_arbitrary_moment_changes_nothing(
    world: World, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["rlvr"])
    rng = random.Random(4)
    kills = 0
    for _ in range(3):
        pid = forked.fork(base)
        time.sleep(rng.uniform(0.1, 0.5))
        os.kill(pid, signal.SIGKILL)
        kills += forked.wait(pid) == -signal.SIGKILL
    assert kills
    assert weights(forked.succeed(base)) == uninterrupted["rlvr"]


def test_different_seeds_give_different_weights(world: World, uninterrupted: dict[str, str], tmp_path: Path) -> None:
    work = WORKS["srl"].model_copy(update={"seed": 1})
    assert weights(forked.succeed(lay_out(tmp_path / "job", world, work))) != uninterrupted["srl"]
