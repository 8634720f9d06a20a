"""`submit --job` and what is around it: a file that is no job, a reader that went away, a type that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stepforge.cli import _follow, _plan, main
from stepforge.errors import InvalidInput, UnknownName
from stepforge.following.follow import RunEvent
from stepforge.local.capacity import missing_types, set_capacity
from stepforge.local.state import Layout
from stepforge.submitting.submission import Submission
from tests.unit.plans.cloud import ENVIRONMENT

CLIENT: Any = SimpleNamespace(connection=SimpleNamespace(name="dev", environment=ENVIRONMENT))
NAME = "sft-0123456789ab-a0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"domain": "facial", "work": {"type": ["srl"]}}', "work"),
        ('{"domain": "facial", "work": {"type": {"srl": 1}}}', "work"),
        ('{"domain": "facial", "work": ["srl"]}', "work"),
        ('{"domain": "facial", "work": ' + '{"a":' * 900 + "1" + "}" * 900 + "}", "work"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
    ],
    ids=["list type", "table type", "no table", "deep work", "deep list", "deep tables"],
)
def test_a_file_that_is_no_job_is_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=rf"job .*job\.json.*{said}"):
        _plan.read_job(path, CLIENT)


class Jobs:
    """Jobs that end as these describe, one after the other."""

    def __init__(self, *ends: dict[str, Any]) -> None:
        self.ends = iter(ends)
        self.followed: list[tuple[str, bool]] = []

    def follow(self, name: str, *, adopted: bool) -> list[RunEvent]:
        self.followed.append((name, adopted))
        return [RunEvent("done", "sft", name, {"status": "Completed", "seconds": 3, "adopted": adopted})]

    def get(self, name: str) -> dict[str, Any]:
        return {"TrainingJobName": name, **next(self.ends)}


DONE = {"TrainingJobStatus": "Completed"}
FULL = {"TrainingJobStatus": "Failed", "FailureReason": "CapacityError: none"}


@pytest.mark.parametrize(("action", "adopted"), [("create", False), ("poll", True), ("adopt", True)])
def test_json_tells_whether_a_job_by_itself_was_adopted(
    action: Any, adopted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    client: Any = SimpleNamespace(connection=CLIENT.connection, jobs=Jobs(DONE))
    _follow.follow_job(client, Submission(NAME, action), as_json=True)
    assert json.loads(capsys.readouterr().out)["adopted"] is adopted


def test_the_next_attempt_is_followed_for_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = SimpleNamespace(connection=CLIENT.connection, jobs=Jobs(FULL, DONE))
    following = Submission("sft-0123456789ab-a1", "create")
    _follow.follow_job(client, Submission(NAME, "poll"), as_json=True, go_on=lambda _: following)
    assert client.jobs.followed == [(NAME, True), (following.name, False)]
    assert json.loads(capsys.readouterr().out)["job"] == following.name


@pytest.mark.parametrize(
    ("creates", "yes", "goes_on"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_another_attempt_is_planned_and_held_to_the_budget_and_none_is_made_unasked(
    creates: bool, yes: bool, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = SimpleNamespace(connection=CLIENT.connection, jobs=Jobs(FULL, DONE))
    calls: list[str] = []
    refuse = SimpleNamespace(refuse=lambda _: calls.append("refuse"))
    monkeypatch.setattr(_plan, "Planner", lambda _: SimpleNamespace(job=lambda *_, **__: refuse))
    monkeypatch.setattr(_plan, "submit_job", lambda *_, **__: Submission(NAME, "poll"))

    def after(*_: Any) -> Submission:
        calls.append("submit")
        return Submission("sft-0123456789ab-a1", "create")

    monkeypatch.setattr(_plan, "submit_after", after)
    planned: Any = SimpleNamespace(client=client, plan=SimpleNamespace(creates=creates), budget=None, resources=None)

    def submit() -> None:
        _plan._submit_job(planned, SimpleNamespace(), yes=yes, wait=True, as_json=True)  # type: ignore[arg-type]

    if goes_on:
        submit()
    else:
        with pytest.raises(typer.Exit) as ended:
            submit()
        assert ended.value.exit_code == 4
    assert calls == (["refuse", "submit"] if goes_on else [])


def test_more_days_than_there_were_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--keep-days", "999999999999"]) == 2
    assert "--keep-days" in capsys.readouterr().err


def test_there_cannot_be_none_of_a_type_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"instance type 'ml\.nope\.x'"):
        set_capacity("ml.nope.x", available=False, base=tmp_path)
    set_capacity("ml.g5.xlarge", available=False, base=tmp_path)
    assert missing_types(Layout.of(tmp_path)) == {"ml.g5.xlarge"}


@pytest.mark.parametrize("unbuffered", [[], ["-u"]], ids=["at the end", "in the command"])
def test_a_reader_that_went_away_is_no_traceback(unbuffered: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = "import sys; from stepforge.cli import main; sys.exit(main(['--version']))"
    ended = subprocess.run(
        [sys.executable, *unbuffered, "-c", command],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
