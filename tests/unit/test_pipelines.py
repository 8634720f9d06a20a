"""What a run tells of its jobs, and what it leaves to earlier runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepforge.following.steps import RunSteps
from stepforge.jobs import JobState
from stepforge.machines.executions import Execution
from stepforge.pipelines import Run

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def attempt(status: str, *, minutes: int) -> JobState:
    """One that was last changed so many minutes after the run began."""
    changed: Any = STARTED + timedelta(minutes=minutes)
    return JobState("srl-000000000000-a0", {"TrainingJobStatus": status, "LastModifiedTime": changed})


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (attempt("Failed", minutes=-5), False),
        (attempt("Stopped", minutes=-5), False),
        (attempt("Failed", minutes=5), True),
        (attempt("Completed", minutes=-5), True),
        (attempt("InProgress", minutes=-5), True),
        (JobState("srl-000000000000-a0", None), False),
    ],
    ids=["failed-before", "stopped-before", "failed-now", "adopted", "joined", "absent"],
)
def test_a_failure_before_the_run_began_is_not_told_as_its_own(found: JobState, told: bool) -> None:
    run = Run(None, Execution("arn", "train-r1", "RUNNING", STARTED), None)  # type: ignore[arg-type]
    steps = RunSteps(run, None, None)  # type: ignore[arg-type]
    assert steps._concerns(found) is told
