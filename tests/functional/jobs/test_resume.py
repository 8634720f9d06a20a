"""kill -9 at any point, any number of times: the same command finishes with the same bits."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import job_folder
from tests.support.kills import count_bytes, die_at_byte, die_in_step, in_step, terminate_in_step

from stepforge.contracts.manifests import sha256_of
from stepforge.contracts.metrics import MEASURED, Metric
from stepforge.contracts.work import KlControl, LocalModel, Lora, RlvrWork, SftWork, SrlWork, TrainingWork
from stepforge_jobs import durable
from stepforge_jobs.training import stage
from stepforge_jobs.training.metrics_log import NAME, read_rows
from stepforge_jobs.training.state import WEIGHTS

STEPS, EVERY = 12, 3
RL = {"steps": STEPS, "checkpoint_every": EVERY, "batch_prompts": 4, "group_size": 4, "warmup_steps": 2}
WORKS: dict[str, TrainingWork] = {
    "sft": SftWork(steps=STEPS, checkpoint_every=EVERY, batch_size=8),
    "sft-lora": SftWork(steps=STEPS, checkpoint_every=EVERY, batch_size=8, lora=Lora(r=2, alpha=4, dropout=0.2)),
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
        keep="best",
        **RL,
    ),
    "ppo": RlvrWork(algorithm="ppo", max_new_tokens=10, reward="partial", beta=0.02, updates_per_batch=2, **RL),
    "dpo": RlvrWork(algorithm="dpo", max_new_tokens=10, reward="partial", beta=0.1, **RL),
    # A cap that is breached, so that what a refusal leaves behind must be found again.
    "held": RlvrWork(
        max_new_tokens=10, reward="partial", kl=KlControl(cap=2e-3), **RL | {"learning_rate": 3e-3, "warmup_steps": 0}
    ),
}
KILLS = 4
"""In a chain: each next attempt of the same job is killed again."""


@pytest.fixture(scope="module", autouse=True)
def short_probes() -> Iterator[None]:
    """Most of an attempt would be measuring the KL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "PROBE_PROMPTS", 4)
        yield


@dataclass(frozen=True)
class Whole:
    """What a run that nothing interrupted left."""

    weights: str
    rows: list[dict[str, float]]
    bytes_after: list[int]
    """Written to checkpoints and metrics from the beginning of each step on."""


def lay_out(base: Path, world: World, work: TrainingWork) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return base


@pytest.fixture(scope="module")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    root = tmp_path_factory.mktemp("whole")
    found = {}
    for name, work in WORKS.items():
        base = lay_out(root / name, world, work)
        assert forked.run(base, prepare=count_bytes(root / f"{name}.json")) == 0, log_of(base)
        before = json.loads((root / f"{name}.json").read_text())
        found[name] = Whole(weights(base / "model"), rows_of(base / "model"), [before[-1] - b for b in before[:-1]])
    refusals = [row for row in found["held"].rows if Metric.KL_REFUSED in row]
    assert refusals
    # What else was measured there is of weights that are gone, and must not pass for the model's.
    assert not any(Metric.LENGTH_RATIO in row or Metric.HACKING_SIGNS in row for row in refusals)
    assert all((Metric.VALIDATION in row) == (row["step"] % EVERY == 0) for row in found["dapo"].rows)
    return found


def weights(model: Path) -> str:
    return sha256_of(model / "model.safetensors")


def rows_of(model: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what the clock decides."""
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def checkpoints(base: Path) -> list[Path]:
    return sorted(base.glob("checkpoints/*/step-*"))


def newest_step(base: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(base)), default=0)


def log_of(base: Path) -> str:
    return (base / "log.txt").read_text()


def seeded_kill(rng: random.Random, base: Path, whole: Whole) -> Callable[[], None]:
    """In a step that is still to come, or at one of the bytes that are still to be written."""
    done = newest_step(base)
    if rng.random() < 0.4:
        return die_in_step(rng.randrange(done, STEPS))
    # A little less than all: time stamps differ in length.
    return die_at_byte(rng.randint(1, whole.bytes_after[done] - 100))


def killed_again_and_again(base: Path, seed: str, whole: Whole) -> Path:
    """The model that a run ends with after KILLS kills, each of which left none."""
    rng = random.Random(seed)
    for _ in range(KILLS):
        assert forked.run(base, prepare=seeded_kill(rng, base, whole)) == -signal.SIGKILL
        assert not (base / "model" / "manifest.json").exists()
    return forked.succeed(base)


def steps_written_ahead(base: Path) -> list[int]:
    (written_ahead,) = base.glob(f"checkpoints/*/{NAME}")
    return [row["step"] for row in read_rows(written_ahead)]


@pytest.mark.parametrize("name", WORKS)
def test_a_job_killed_four_times_has_the_same_weights_and_each_metric_once(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path, name: str
) -> None:
    whole, base = uninterrupted[name], lay_out(tmp_path / "job", world, WORKS[name])
    model = killed_again_and_again(base, name, whole)
    assert (weights(model), rows_of(model)) == (whole.weights, whole.rows)
    assert steps_written_ahead(base) == [row["step"] for row in whole.rows] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", WORKS)
def test_more_than_a_hundred_kills(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path, name: str, seed: int
) -> None:
    whole, base = uninterrupted[name], lay_out(tmp_path / "job", world, WORKS[name])
    model = killed_again_and_again(base, f"{name} {seed}", whole)
    assert (weights(model), rows_of(model)) == (whole.weights, whole.rows)
    assert steps_written_ahead(base) == list(range(1, STEPS + 1))


def test_a_flipped_byte_in_the_newest_checkpoint_is_walked_past_to_the_same_weights(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["srl"])
    assert forked.run(base, prepare=die_in_step(10)) == -signal.SIGKILL
    newest = checkpoints(base)[-1]
    data = bytearray((newest / WEIGHTS).read_bytes())
    data[-3] ^= 1
    (newest / WEIGHTS).write_bytes(data)
    assert weights(forked.succeed(base)) == uninterrupted["srl"].weights
    assert "checkpoint step-00000009 is damaged (weights.safetensors has another digest" in log_of(base)
    assert '{"event": "resumed", "step": 6}' in log_of(base)


@pytest.mark.parametrize("name", ["rlvr", "held"])
def test_sigterm_leaves_a_checkpoint_of_that_step_and_no_failure(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path, name: str
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS[name])
    assert forked.run(base, prepare=terminate_in_step(4)) == 143
    assert not (base / "output" / "failure").exists()
    assert not (base / "model" / "manifest.json").exists()
    # A guarded stage goes back to what a probe accepted; no probe has seen step 5.
    assert [path.name for path in checkpoints(base)][-2:] == ["step-00000003", "step-00000005"]
    assert weights(forked.succeed(base)) == uninterrupted[name].weights


def test_a_second_sigterm_while_the_checkpoint_is_written_harms_nothing(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["rlvr"])

    original = durable.put

    def put(stream: object, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(stream, data)  # type: ignore[arg-type]

    def terminate_and_again() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        durable.put = put  # type: ignore[assignment]

    assert forked.run(base, prepare=in_step(4, terminate_and_again)) == 143
    assert newest_step(base) == 5
    assert weights(forked.succeed(base)) == uninterrupted["rlvr"].weights
    assert "damaged" not in log_of(base)


def test_a_step_longer_than_the_grace_leaves_the_checkpoint_before_it(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["srl"])
    reached = tmp_path / "reached"

    def long_step() -> None:
        reached.touch()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.01)

    pid = forked.fork(base, prepare=in_step(7, long_step))
    while not reached.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.1)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "SIGTERM ended it in the middle of a step"
    os.kill(pid, signal.SIGKILL)
    assert forked.wait(pid) == -signal.SIGKILL
    assert newest_step(base) == 6
    assert weights(forked.succeed(base)) == uninterrupted["srl"].weights


def test_a_second_process_in_the_same_folder_touches_nothing_and_says_why(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["sft"])
    reached, go_on = tmp_path / "reached", tmp_path / "go-on"

    def wait() -> None:
        reached.touch()
        while not go_on.exists():
            time.sleep(0.01)

    first = forked.fork(base, prepare=in_step(7, wait))
    try:
        while not reached.exists():
            time.sleep(0.01)
        before = times_of(base)
        assert forked.run(base) == 1
        assert "another process runs this job in " in log_of(base)
        assert times_of(base) == before
    finally:
        go_on.touch()
        code = forked.wait(first)
    assert code == 0
    assert weights(base / "model") == uninterrupted["sft"].weights


def times_of(base: Path) -> dict[Path, int]:
    """When each file that a job writes was changed, apart from its signs of life."""
    files = (path for path in base.rglob("*") if path.is_file() and path.name not in ("log.txt", "heartbeat.json"))
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_full_disk_is_said_and_harms_no_checkpoint(
    world: World, uninterrupted: dict[str, Whole], tmp_path: Path
) -> None:
    base = lay_out(tmp_path / "job", world, WORKS["sft"])

    def fill() -> None:
        """The kernel refuses files over a size that the weights do not fit in."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))

    assert forked.run(base, prepare=in_step(7, fill)) == 1
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("DiskFull: no space for the checkpoint of step 9 in ")
    assert [path.name for path in checkpoints(base)] == ["step-00000003", "step-00000006"]
    assert not list(base.glob("checkpoints/*/.step-*"))
    assert weights(forked.succeed(base)) == uninterrupted["sft"].weights


def test_different_seeds_give_different_weights(world: World, uninterrupted: dict[str, Whole], tmp_path: Path) -> None:
    work = WORKS["srl"].model_copy(update={"seed": 1})
    assert weights(forked.succeed(lay_out(tmp_path / "job", world, work))) != uninterrupted["srl"].weights
