"""Executions are named by what they do: running or succeeded is adopted, otherwise the next number."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from stepforge.machines import executions
from stepforge.testing import FakeStepFunctions

MACHINE = "arn:aws:states:us-east-1:000000000000:stateMachine:stepforge-train"
IDENTITY = "ab" * 32


def start(states: FakeStepFunctions) -> executions.Execution:
    return executions.start_or_adopt(states, MACHINE, "train", IDENTITY, {"x": 1})


@pytest.mark.parametrize("ended", [None, "SUCCEEDED", "PENDING_REDRIVE"], ids=str)
def test_what_runs_or_has_succeeded_is_adopted(ended: str | None) -> None:
    states = FakeStepFunctions()
    first = start(states)
    if ended:
        states.end(first.arn, ended)
    assert start(states).arn == first.arn
    assert states.starts == 1


@pytest.mark.parametrize("ended", ["FAILED", "TIMED_OUT", "ABORTED"])
def test_after_a_failure_the_next_number_is_taken(ended: str) -> None:
    states = FakeStepFunctions()
    states.end(start(states).arn, ended)
    assert start(states).name == f"train-{IDENTITY[:12]}-r1"


def test_a_thousand_submissions_at_once_start_one_execution() -> None:
    states = FakeStepFunctions()
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: start(states).arn, range(1000)))
    assert (len(found), len(states.executions)) == (1, 1)


def test_find_returns_the_newest_and_starts_nothing() -> None:
    states = FakeStepFunctions()
    assert executions.find(states, MACHINE, "train", IDENTITY) is None
    states.end(start(states).arn, "FAILED", error="E", cause="why")
    found = executions.find(states, MACHINE, "train", IDENTITY)
    assert found is not None
    assert (found.status, found.error, found.cause) == ("FAILED", "E", "why")
    assert states.starts == 1
