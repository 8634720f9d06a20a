"""What people see of a run and of what it registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepforge.cli import _predict, _registry, _runs
from stepforge.contracts.registry import TrainOutput
from stepforge.errors import InvalidInput

from .conftest import Deployed


@pytest.fixture(scope="module")
def newest(deployed: Deployed) -> str:
    """A version that waits for a person: what `stepforge registry` calls it."""
    ended = deployed.train(deployed.pipeline(seed=40, stages=1), number=0)
    return f"facial/{TrainOutput.model_validate_json(ended['output']).version}"


def test_a_run_that_was_followed_ends_with_its_scores_and_the_gates_word(
    deployed: Deployed, client: Any, newest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = client.pipelines.find(deployed.pipeline(seed=40, stages=1))
    _runs.follow(run, as_json=False)
    said = capsys.readouterr().out
    for split in ("test_known", "test_new", "test_retained"):
        assert f"{split} 50.0 % (40.0–60.0) 50.0 % (40.0–60.0) 10" in " ".join(said.split())
    assert "champion: " in said
    assert f"registry approve {newest}" in said
    _runs.follow(run, as_json=True)
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert len(rows) == 6
    assert rows[0] == {
        "split": "test_known",
        "decoding": "greedy",
        "accepted": 0.5,
        "low": 0.4,
        "high": 0.6,
        "records": 10,
    }


def test_list_and_show_have_scores_and_state(client: Any, newest: str, capsys: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []
    s3 = client.connection.client("s3")
    s3.meta.events.register("before-call", lambda params, **_: read.append(params["url_path"]), unique_id="counted")
    evaluation = client.registry.get(newest).metadata["evaluation_uri"].removeprefix("s3:/")
    _registry.print_packages(client, "facial", as_json=False)
    s3.meta.events.unregister("before-call", unique_id="counted")
    # Other files have registered versions whose scores are not there.
    assert [path for path in read if path.startswith(evaluation)] == [], "its scores are in the registry itself"
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(newest))
    assert "PendingManualApproval" in line
    assert line.count("50.0 / 50.0") == 3
    _registry.print_package(client, client.registry.get(newest), as_json=False)
    said = capsys.readouterr().out
    assert said.startswith(f"{newest}: PendingManualApproval\n")
    assert "50.0 % (40.0–60.0)" in said
    assert "champion gate: " in said


def test_one_version_takes_the_others_place_and_gives_it_back(
    deployed: Deployed, client: Any, trained: TrainOutput, newest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = f"facial/{trained.version}"

    def approve(name: str) -> str:
        _registry.approve(client, name, comment="why", wait=True, though_rejected=False, as_json=False)
        return "".join(capsys.readouterr())

    def answering() -> str:
        _predict.predict(client, "facial", ["p1"], temperature=0, seed=0, export=None, out=Path(), as_json=True)
        return str(json.loads(capsys.readouterr().out)["model_sha256"])

    def states() -> tuple[str, str]:
        return client.registry.get(old).state, client.registry.get(newest).state

    if states()[0] != "Production":
        approve(old)
    assert "serves already, so nothing is promoted" in approve(old)
    assert f"{newest} answers at its endpoint" in approve(newest)
    assert states() == ("superseded", "Production")
    assert answering() == client.registry.get(newest).artifact.sha256

    # The way back: the old version's first promotion is not taken for this one.
    assert "takes its place back" in approve(old)
    assert states() == ("Production", "superseded")
    assert answering() == trained.stages[-1].artifact.sha256

    _registry.reject(client, newest, comment="worse", as_json=False)
    assert "is not promoted" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match=r"was rejected \(worse\): .*--yes"):
        approve(newest)
    _registry.reject(client, old, comment="worse too", as_json=False)
    assert "but answers at its endpoint until another is approved" in capsys.readouterr().out
    assert states() == ("Production, though Rejected by now", "rejected")
