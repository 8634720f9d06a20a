"""Turn what a state machine's Catch holds into one error name and one sentence."""

from __future__ import annotations

import json

from stepforge.contracts.base import Contract
from stepforge.machines.attempts import CaughtError, job_failure


class Failure(Contract):
    error: str
    cause: str


def explain(caught: CaughtError) -> Failure:
    """Unwrap a handler's payload, a nested execution or a training job; what is none of these stays as it is.

    A nested execution that failed says States.TaskFailed and holds its own error as JSON in Cause, level by level.
    """
    error, cause = caught.Error or "Unknown", caught.Cause
    for _ in range(8):
        try:
            inner = json.loads(cause)
        except ValueError:
            break
        if not isinstance(inner, dict):
            break
        if "errorMessage" in inner:
            error, cause = inner.get("errorType") or error, str(inner["errorMessage"])
        elif "TrainingJobStatus" in inner and "TrainingJobName" in inner:
            failure = job_failure(inner)
            error, cause = type(failure).__name__, str(failure)
        elif inner.get("Error") or inner.get("Cause"):
            error, cause = inner.get("Error") or error, str(inner.get("Cause") or "")
        elif inner.get("Status") in ("FAILED", "TIMED_OUT", "ABORTED"):
            error, cause = (
                f"Execution{inner['Status'].title().replace('_', '')}",
                f"{inner.get('Name', 'a nested execution')} ended as {inner['Status']}",
            )
        else:
            break
    return Failure(error=error, cause=(cause or "no cause was given")[: caught.longest])
