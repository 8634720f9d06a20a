"""One kill -9 of each kind in one run, and names that do not exist. The full set is in test_kills.py."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge.artifacts import read_manifest
from stepforge.contracts.manifests import MANIFEST, describe_folder
from stepforge.errors import InvalidInput
from tests.e2e.homes import TINY, Home, wait_for

UPLOAD = """
import sys
from pathlib import Path
from stepforge.connection import connect
from stepforge.contracts.manifests import describe_folder
from stepforge.submitting.transfers import upload

upload(connect("local"), Path(sys.argv[1]), describe_folder(Path(sys.argv[1]), "model"))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Its recipe has one stage: the others recover in the same way, and cost ten seconds each."""
    root = tmp_path_factory.mktemp("recovery")
    text = TINY.read_text()
    start = text.index('[[stages]]\ntype = "srl"')
    (root / "base.toml").write_text(text[:start] + text[text.index("[evaluation]") :])
    found = Home(root / "home")
    yield found
    found.down()


def train(home: Home) -> tuple[str, ...]:
    return ("run", "train", "--domain", "facial", "--recipe", str(home.folder.parent / "base.toml"))


def test_a_run_survives_the_death_of_server_command_and_trainer_with_the_same_bits(home: Home) -> None:
    command = home.start(*train(home))
    wait_for(lambda: home.layout.server() is not None, command)
    time.sleep(0.5)  # while it deploys
    home.kill_server()
    _, err = command.communicate(timeout=60)
    assert command.returncode == 5, err
    assert "Run it again" in err

    command = home.start(*train(home))
    wait_for(lambda: home.job("sft") is not None, command)
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL

    command = home.start(*train(home))
    wait_for(lambda: home.steps("sft") >= 20 and home.trainer() is not None, command)
    trainer = home.trainer()
    assert trainer is not None
    trainer.send_signal(signal.SIGKILL)
    _, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    killed = home.job("sft")
    assert killed is not None
    assert (killed["TrainingJobStatus"], killed["Attempts"]) == ("Completed", 2)

    weights = home.weights(home.cli(*train(home))["result"])
    # How often a job saves is part of its identity and not of its bits: this one is new, and nothing interrupts it.
    whole = home.cli(*train(home), "--set", "stages.base.checkpoint_every=1000")["result"]
    assert home.job("sft") != killed
    assert home.weights(whole) == weights
    assert home.twice_completed() == {}


def test_an_upload_that_is_killed_is_no_artifact_and_goes_on(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(4):
        (folder / f"part-{number}").write_bytes(bytes([number]) * (12 << 20))
    manifest = describe_folder(folder, "model")
    home.cli("local", "up")
    there = home.layout.objects / "000000000000" / "stepforge-local" / "raw" / "model" / manifest.sha256
    command = home.python("-c", UPLOAD, str(folder))
    wait_for(lambda: (there / "part-1").exists(), command)
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    assert not (there / MANIFEST).exists()
    s3, uri = home.aws().client("s3"), f"s3://stepforge-local/raw/model/{manifest.sha256}"
    with pytest.raises(InvalidInput, match="does not exist"):
        read_manifest(s3, uri)
    sent = {path: path.stat().st_mtime_ns for path in there.glob("part-[01]")}
    command = home.python("-c", UPLOAD, str(folder))
    _, err = command.communicate(timeout=60)
    assert command.returncode == 0, err
    assert read_manifest(s3, uri) == manifest
    assert {path: path.stat().st_mtime_ns for path in sent} == sent


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("watch", "train-0"), "unknown run 'train-0'"),
        (("report", "train-0"), "unknown run 'train-0'"),
        (("stop", "train-0"), "unknown run 'train-0'"),
        (("logs", "srl-0-a0"), "unknown job 'srl-0-a0'"),
        (("stop", "srl-0-a0"), "unknown job 'srl-0-a0'"),
        (("registry", "show", "facal/1"), "unknown model 'facal'"),
        (("registry", "approve", "facial/99"), "unknown model 'facial/99'"),
        (("registry", "pull", "facial/99", "--out", "x"), "unknown model 'facial/99'"),
        (("predict", "--domain", "facal"), "unknown model 'facal'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_are_told(home: Home, arguments: tuple[str, ...], says: str) -> None:
    assert says in home.cli(*arguments, code=2)["message"]
