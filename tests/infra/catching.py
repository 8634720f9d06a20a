"""What the static checker says of a state's Retry and Catch: names that nobody raises, and errors that get lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepforge import errors

Json = Any
Problem = tuple[str, str]
"""Rule and message."""

# https://states-language.net/spec.html#appendix-a, and those of Map's reader and writer
OF_STATES = {
    f"States.{name}" for name in (
        "ALL", "HeartbeatTimeout", "Timeout", "TaskFailed", "Permissions", "ResultPathMatchFailure", "Runtime",
        "ParameterPathFailure", "BranchFailed", "NoChoiceMatched", "IntrinsicFailure", "DataLimitExceeded",
        "ExceedToleratedFailureThreshold", "ItemReaderFailed", "ResultWriterFailed",
    )
}  # fmt: skip
RETRIER = {
    "ErrorEquals",
    "Comment",
    "IntervalSeconds",
    "MaxAttempts",
    "BackoffRate",
    "MaxDelaySeconds",
    "JitterStrategy",
}


def of_state(state: Json) -> Iterator[Problem]:
    """Of a Task, a Map or a Parallel."""
    retries, catches = state.get("Retry", []), state.get("Catch", [])
    yield from _handlers("retry", retries)
    yield from _handlers("catch", catches)
    if not catches or catches[-1]["ErrorEquals"] != ["States.ALL"]:
        yield "catch", "its last Catch must be States.ALL, so that every failure is explained"
    for catcher in catches:
        if catcher.get("ResultPath", "$") == "$":
            yield "catch", f"its Catch of {catcher['ErrorEquals']} replaces the input: set ResultPath"
        elif catcher["ResultPath"] is None:
            yield "catch", f"its Catch of {catcher['ErrorEquals']} throws the error away: nothing can explain it"
    if state["Type"] == "Task" and not retries:
        yield "retry", "has no Retry: one throttled call would end the execution"
    for retry in retries:
        if broad := {"States.ALL", "States.TaskFailed", "States.Timeout"} & set(retry["ErrorEquals"]):
            yield "retry", f"retries {sorted(broad)}: what failed for good would be run again"
        if missing := {"JitterStrategy", "MaxDelaySeconds", "MaxAttempts"} - set(retry):
            yield "retry", f"a Retry lacks {sorted(missing)}"
        if unknown := sorted(set(retry) - RETRIER):
            yield "retry", f"a Retry knows no field {unknown}"
        if retry.get("BackoffRate", 2) < 1 or retry.get("MaxAttempts", 3) < 1:
            yield "retry", "a Retry must have a BackoffRate and MaxAttempts of 1 at least"


def _handlers(rule: str, handlers: list[Json]) -> Iterator[Problem]:
    for number, one in enumerate(handlers, start=1):
        names = one["ErrorEquals"]
        if "States.ALL" in names and (len(names) > 1 or number < len(handlers)):
            yield rule, f"States.ALL must stand alone in the last {rule.title()}: nothing is asked after it"
        for name in names:
            if name.startswith("States.") and name not in OF_STATES:
                yield rule, f"names {name!r}, which Step Functions does not raise"
            elif "." not in name and not _is_ours(name):
                yield rule, f"names {name!r}, which is no error of stepforge.errors"


def _is_ours(name: str) -> bool:
    found = getattr(errors, name, None)
    return isinstance(found, type) and issubclass(found, Exception)
