"""kill -9 of the command, the server, the training process, an upload: the same command finishes, with the same bits.

Moments come from seeds: a point of the run, and a part of a second after it.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stepforge.artifacts import read_manifest
from stepforge.contracts.manifests import MANIFEST
from stepforge.errors import InvalidInput
from tests.e2e.homes import TRAIN, Home, wait_for

SEEDS = range(5)
FILES, MEBIBYTES = 6, 16
"""Ballast of a model, so that its upload takes long enough to be cut off."""


@dataclass(frozen=True)
class World:
    """A home in which everything up to the last stage is done, and the weights of a run that nothing interrupted."""

    begun: Home
    weights: str
    model: Path
    """A model directory with ballast."""
    weights_of_model: str
    """What the pipeline makes of it."""

    def copy(self, folder: Path) -> Home:
        shutil.copytree(self.begun.folder, folder, symlinks=True)
        return replace(self.begun, folder=folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("kills")
    home = Home(root / "whole")
    begun = Home(root / "begun")
    base_only = root / "base.toml"
    text = Path(TRAIN[-1]).read_text()
    srl = text.index("[[stages]]", text.index("[[stages]]") + 1)
    base_only.write_text(text[:srl] + text[text.index("[evaluation]") :])
    home.cli(*TRAIN[:-1], str(base_only))
    home.down()
    shutil.copytree(home.folder, begun.folder)
    try:
        weights = home.weights(home.cli(*TRAIN)["result"])
        model = root / "model"
        home.cli("registry", "pull", "facial", "--out", str(model))
        (model / MANIFEST).unlink()
        noise = random.Random(0)
        for number in range(FILES):
            (model / f"ballast-{number}.txt").write_bytes(noise.randbytes(MEBIBYTES << 20))
        of_model = home.weights(home.cli(*TRAIN, "--model", str(model))["result"])
        yield World(begun, weights, model, of_model)
    finally:
        home.down()


@pytest.fixture
def home(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Home]:
    """Of seed 0 an empty one: its kills meet the first start, the dataset or the base too."""
    seed = request.node.callspec.params["seed"]
    found = Home(tmp_path / "home") if seed == 0 else world.copy(tmp_path / "home")
    yield found
    found.down()
    shutil.rmtree(found.folder, ignore_errors=True)


def point_of(home: Home, rng: random.Random, *, whole: bool) -> Callable[[], bool]:
    """A point of the run by the seed: up, or a job of some type there, or so far with its training."""
    kinds = ["dataset", "gate", "sft", "srl", "evaluate"] if whole else ["srl", "evaluate"]
    kind = rng.choice(["up", *kinds])
    if kind == "up":
        return lambda: home.layout.server() is not None
    step = rng.randrange(0, 50, 5) if kind in ("sft", "srl") and rng.random() < 0.7 else -1
    return lambda: home.job(kind) is not None and home.steps(kind) >= step


def finishes(home: Home, world: World) -> None:
    """The same command once more."""
    result = home.cli(*TRAIN)["result"]
    assert home.weights(result) == world.weights
    assert home.twice_completed() == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_command_killed_while_it_follows(seed: int, home: Home, world: World) -> None:
    rng = random.Random(f"command {seed}")
    command = home.start(*TRAIN)
    wait_for(point_of(home, rng, whole=seed == 0), command)
    time.sleep(rng.random())
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    finishes(home, world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_server_killed_with_its_children(seed: int, home: Home, world: World) -> None:
    rng = random.Random(f"server {seed}")
    command = home.start(*TRAIN)
    wait_for(point_of(home, rng, whole=seed == 0), command)
    time.sleep(rng.random())
    assert command.poll() is None
    home.kill_server()
    _, err = command.communicate(timeout=120)
    assert command.returncode in (4, 5), err
    assert "Traceback" not in err
    finishes(home, world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_training_process_killed(seed: int, home: Home, world: World) -> None:
    rng = random.Random(f"trainer {seed}")
    kind = "sft" if seed == 0 else "srl"
    step = rng.choice([-1, *range(0, 50, 5)])
    command = home.start(*TRAIN)
    wait_for(lambda: home.job(kind) is not None and home.steps(kind) >= step and home.trainer() is not None, command)
    time.sleep(rng.random() / 10)
    trainer = home.trainer()
    assert trainer is not None
    trainer.send_signal(signal.SIGKILL)
    # The job goes on by itself: the command that follows it is still the same.
    out, err = command.communicate(timeout=240)
    assert command.returncode == 0, (out, err)
    job = home.job(kind)
    assert job is not None
    assert job["Attempts"] == 2
    finishes(home, world)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_an_upload_killed(seed: int, home: Home, world: World) -> None:
    rng = random.Random(f"upload {seed}")
    arguments = (*TRAIN, "--model", str(world.model))
    sent, after = rng.randrange(1, FILES), rng.random() / 20
    prefix = home.layout.objects / "000000000000" / "stepforge-local" / "raw" / "model"
    command = home.start(*arguments)
    wait_for(lambda: len(list(prefix.glob("*/ballast-?.txt"))) >= sent, command)
    time.sleep(after)
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    (folder,) = prefix.iterdir()
    assert not (folder / MANIFEST).exists()
    with pytest.raises(InvalidInput, match="does not exist"):
        read_manifest(home.aws().client("s3"), f"s3://stepforge-local/raw/model/{folder.name}")
    there = {path: path.stat().st_mtime_ns for path in folder.glob("ballast-?.txt")}
    result = home.cli(*arguments)["result"]
    assert home.weights(result) == world.weights_of_model
    assert home.twice_completed() == {}
    assert {path: path.stat().st_mtime_ns for path in there} == there
