"""A list of runs has a row for each, whatever became of one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.following.overview import summarise
from stepforge.machines import executions
from stepforge.testing import FakeStepFunctions

MACHINE = "arn:aws:states:us-east-1:000000000000:stateMachine:stepforge-train"


class NoObjects:
    """An S3 that holds nothing."""

    class exceptions:
        class NoSuchKey(Exception):
            pass

    def get_object(self, **_: Any) -> None:
        raise self.exceptions.NoSuchKey


@pytest.mark.parametrize(
    ("status", "output"),
    [
        ("FAILED", {"Error": "AlgorithmError", "Cause": "line 17"}),
        ("ABORTED", None),
        ("SUCCEEDED", {"written": "by another version"}),
        ("SUCCEEDED", None),
    ],
)
def test_a_run_without_scores_hides_no_other(status: str, output: dict[str, Any] | None) -> None:
    states = FakeStepFunctions()
    clients = {"stepfunctions": states, "s3": NoObjects()}
    for name, given in (("bad", '{"not": "ours"}'), ("good", "{}")):
        states.start_execution(stateMachineArn=MACHINE, name=name, input=given)
    arns = [executions.execution_arn(MACHINE, name) for name in ("bad", "good")]
    states.end(arns[0], status, output=output, error="E")
    found = summarise(SimpleNamespace(client=clients.__getitem__), arns)  # type: ignore[arg-type]
    assert [(run.name, run.status, run.accepted) for run in found] == [("bad", status, {}), ("good", "RUNNING", {})]
    assert all(run.started <= datetime.now(UTC) for run in found)
