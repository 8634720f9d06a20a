"""What people see of a run: rewards where the loss tells nothing, adopted stages as such, logs that can be read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from stepforge.cli import _progress
from stepforge.contracts.metrics import Metric
from stepforge.jobs import JobState, LogLine
from stepforge.pipelines import RunEvent

JOB = "srl-000000000000-a0"


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *events: RunEvent) -> list[str]:
    monkeypatch.setattr(_progress, "_PLAIN_EVERY_SECONDS", -1.0)
    _progress.show(events)
    return capsys.readouterr().err.splitlines()


def progress(step: int, **values: float) -> RunEvent:
    return RunEvent("progress", "srl", JOB, {"event": "progress", "stage": "srl", "step": step, "steps": 9, **values})


def test_a_stage_with_rewards_shows_them_and_the_last_kl_and_no_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        progress(1, loss=-2e-9, reward=0.25, accepted=0.125, kl=0.5, entropy=1.5),
        progress(2, loss=1e-9, reward=0.5, accepted=0.25, entropy=1.25),
    ]
    assert shown(monkeypatch, capsys, *events) == [
        "srl          1/9 reward 0.25 accepted 0.125 kl 0.5",
        "srl          2/9 reward 0.5 accepted 0.25 kl 0.5",
    ]
    assert shown(monkeypatch, capsys, progress(3, loss=2.5)) == ["srl          3/9 loss 2.5"]


def done(*, adopted: bool) -> RunEvent:
    return RunEvent("done", "srl", JOB, {"status": "Completed", "seconds": 7, "reason": "", "adopted": adopted})


@pytest.mark.parametrize(
    ("status", "adopted", "lines"),
    [
        ("Completed", True, [f"srl          adopted: {JOB} had done it, in 7 s"]),
        ("InProgress", True, [f"srl          {JOB}, adopted while it runs", "srl          done in 7 s"]),
        ("Completed", False, [f"srl          {JOB}", "srl          done in 7 s"]),
    ],
    ids=["done-before", "joined", "own"],
)
def test_an_adopted_stage_is_told_from_one_that_ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, adopted: bool, lines: list[str]
) -> None:
    stage = RunEvent("stage", "srl", JOB, {"status": status, "adopted": adopted})
    assert shown(monkeypatch, capsys, stage, done(adopted=adopted and status == "Completed")) == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"event": "progress", "stage": "srl", "step": 5, "steps": 90, "loss": 0.0, "reward": 0.1234}',
            "reward 0.123",
        ),
        ('{"event": "progress", "stage": "base", "step": 5, "steps": 90, "loss": 0.5}', "loss 0.5"),
        ('{"event": "started", "type": "srl", "refusal": ""}', "started type srl"),
        ("a line of a library", "a line of a library"),
        ("[1, 2]", "[1, 2]"),
        ('{"no": "event"}', '{"no": "event"}'),
    ],
    ids=["rewards", "loss", "event", "text", "list", "foreign"],
)
def test_a_log_is_for_people(text: str, said: str) -> None:
    at = datetime(2026, 1, 1, 12, 30, 5, tzinfo=UTC)
    (line,) = _progress.log_lines([LogLine(at, text)])
    time, rest = line.split("  ", 1)
    assert time == f"{at.astimezone():%H:%M:%S}"
    assert " ".join(rest.split()).endswith(said)


def test_the_numbers_of_a_stage_have_the_names_that_jobs_give_them() -> None:
    assert set(_progress._OF_REWARDS) <= set(Metric)


def test_a_job_that_waits_for_another_says_for_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    description = {
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Pending",
        "SecondaryStatusTransitions": [{"StatusMessage": "Waits for sft-000000000000-a0 to end"}],
    }
    waits = JobState(JOB, description).waits
    assert shown(monkeypatch, capsys, RunEvent("waits", "srl", JOB, {"reason": waits})) == [
        "srl          waits for sft-000000000000-a0 to end"
    ]
    assert JobState(JOB, {**description, "SecondaryStatus": "Training"}).waits == ""
    assert JobState(JOB, None).waits == ""
