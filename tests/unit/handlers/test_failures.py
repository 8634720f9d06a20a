"""One name and one sentence, whatever failed and however deep."""

from __future__ import annotations

import json

import pytest

from stepforge.machines.attempts import CaughtError
from stepforge.machines.failures import explain

HANDLER = json.dumps({"errorType": "GateRefused", "errorMessage": "record 'r1'", "stackTrace": ["x"]})
CHILD = json.dumps({"ExecutionArn": "arn", "Status": "FAILED", "Error": "AlgorithmError", "Cause": "line 17"})
GRANDCHILD = json.dumps({"Status": "FAILED", "Error": "States.TaskFailed", "Cause": HANDLER})
JOB = json.dumps({"TrainingJobName": "j", "TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: disk full"})
ABORTED = json.dumps({"Name": "run-job-x", "Status": "ABORTED"})


@pytest.mark.parametrize(
    ("error", "cause", "expected"),
    [
        ("GateRefused", HANDLER, ("GateRefused", "record 'r1'")),
        ("States.TaskFailed", CHILD, ("AlgorithmError", "line 17")),
        ("States.TaskFailed", GRANDCHILD, ("GateRefused", "record 'r1'")),
        ("States.TaskFailed", JOB, ("AlgorithmError", "disk full")),
        ("States.TaskFailed", ABORTED, ("ExecutionAborted", "run-job-x ended as ABORTED")),
        ("States.Timeout", "", ("States.Timeout", "no cause was given")),
        ("SageMaker.X", "plain words", ("SageMaker.X", "plain words")),
        ("X", "[1, 2]", ("X", "[1, 2]")),
        ("X", '{"other": 1}', ("X", '{"other": 1}')),
    ],
)
def test_a_cause_is_unwrapped(error: str, cause: str, expected: tuple[str, str]) -> None:
    failure = explain(CaughtError(Error=error, Cause=cause))
    assert (failure.error, failure.cause) == expected


def test_a_cause_that_wraps_itself_ends() -> None:
    cause = "deep"
    for _ in range(100):
        cause = json.dumps({"Error": "E", "Cause": cause})[:20_000]
    assert len(explain(CaughtError(Error="E", Cause=cause)).cause) <= 4_000
