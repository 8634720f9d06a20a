"""Executions of a state machine, named by what they do: running or succeeded is adopted, otherwise the next number.

A closed execution's name stays taken for 90 days on AWS, so a number is never used twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge import errors
from stepforge.contracts.base import canonical_json
from stepforge.contracts.names import Machine, execution_name
from stepforge.errors import InvalidInput
from stepforge.logs import trace_header

ADOPTED = ("RUNNING", "SUCCEEDED", "PENDING_REDRIVE")
"""An execution that waits to be taken up again is under way."""
STOPPED = "StoppedByUser"
INTERRUPTED = "Interrupted"
"""Errors of executions that nothing is wrong with: the same command goes on where they ended."""
_PARTS = 7
"""Of a machine's ARN, between colons; a qualifier is the eighth."""


@dataclass(frozen=True)
class Execution:
    """What DescribeExecution says. `status` is RUNNING, SUCCEEDED, FAILED, TIMED_OUT, ABORTED or PENDING_REDRIVE."""

    arn: str
    name: str
    status: str
    started: datetime
    stopped: datetime | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    error: str = ""
    cause: str = ""

    @property
    def word(self) -> str:
        """`status` for people: INTERRUPTED where a restart cut it off, and the error's name where it failed."""
        return status_word(self.status, self.error)


def status_word(status: str, error: str) -> str:
    if error == INTERRUPTED:
        return "INTERRUPTED"
    return f"{status} ({error})" if error else status


_ENDINGS: dict[str, type[errors.JobFailed]] = {
    STOPPED: errors.Stopped,
    INTERRUPTED: errors.Interrupted,
    **{kind.__name__: kind for kind in (errors.Stopped, errors.MaxRuntimeExceeded, errors.MaxWaitTimeExceeded)},
}


def run_failure(name: str, execution: Execution) -> errors.RunFailed:
    """The error of a run that ended without success; its exit code is that of the ending of its job."""
    failure = errors.RunFailed(f"run {name} {execution.word}: {execution.cause}".strip(": "))
    kind = _ENDINGS.get(execution.error, errors.RunFailed)
    failure.exit_code = kind.exit_code
    return failure


def unqualified(machine_arn: str) -> str:
    """The ARN of the machine itself, of one that may end with a version or an alias.

    Names of executions, and permissions, go by it; a list by an alias leaves out what was started without it.
    """
    return ":".join(machine_arn.split(":")[:_PARTS])


def execution_arn(machine_arn: str, name: str) -> str:
    """The same whatever version or alias of the machine started it."""
    return unqualified(machine_arn).replace(":stateMachine:", ":execution:") + f":{name}"


def child_name(job_prefix: str, run: str) -> str:
    """Name of the execution of `run-job` through which a run waits for a job, as the machine `train` builds it."""
    return f"run-job-{job_prefix}-{run}"


def describe(states: Any, arn: str) -> Execution | None:
    """None where there is no such execution. `states` is a Step Functions client."""
    try:
        answer = states.describe_execution(executionArn=arn)
    except states.exceptions.ExecutionDoesNotExist:
        return None
    return Execution(
        arn=arn,
        name=answer["name"],
        status=answer["status"],
        started=answer["startDate"],
        stopped=answer.get("stopDate"),
        input=json.loads(answer["input"]) if answer.get("input") else None,
        output=json.loads(answer["output"]) if answer.get("output") else None,
        error=answer.get("error") or "",
        cause=answer.get("cause") or "",
    )


def find(states: Any, machine_arn: str, machine: Machine, identity: str) -> Execution | None:
    """The newest execution of an identity, or None."""
    newest = None
    number = 0
    while (
        found := describe(states, execution_arn(machine_arn, execution_name(machine, identity, number)))
    ) is not None:
        newest, number = found, number + 1
    return newest


def after(states: Any, arn: str) -> str | None:
    """Name of the execution of the same identity that was started after this one; None where there is none."""
    stem, _, number = arn.rpartition("-r")
    if not number.isdecimal():
        return None
    found = describe(states, f"{stem}-r{int(number) + 1}")
    return None if found is None else found.name


def start_or_adopt(states: Any, machine_arn: str, machine: Machine, identity: str, input: dict[str, Any]) -> Execution:
    """Start an execution, or adopt the one that runs or has succeeded.

    Two callers at once start one: the same name with the same input is the same execution.
    """
    number = 0
    while True:
        name = execution_name(machine, identity, number)
        found = describe(states, execution_arn(machine_arn, name))
        if found is None:
            try:
                # The header names no run: the same start with another trace is the same execution.
                trace = {"traceHeader": header} if (header := trace_header()) else {}
                states.start_execution(
                    stateMachineArn=machine_arn, name=name, input=canonical_json(input).decode(), **trace
                )
            except states.exceptions.ExecutionAlreadyExists:
                continue  # somebody else's start came first: look at it again
            started = describe(states, execution_arn(machine_arn, name))
            if started is None:
                raise InvalidInput(
                    f"execution {name} was started and is not there: is {machine_arn} the right machine?"
                )
            return started
        if found.status in ADOPTED:
            return found
        number += 1


def stop(states: Any, arn: str, *, cause: str) -> None:
    """Stop an execution; nothing happens where it has ended or does not exist."""
    try:
        states.stop_execution(executionArn=arn, error=STOPPED, cause=cause)
    except states.exceptions.ExecutionDoesNotExist:
        return
    except AwsError as error:
        # One that has ended is a ValidationException, and so is a malformed ARN.
        found = describe(states, arn) if error.response["Error"]["Code"] == "ValidationException" else None
        if found is None or found.status == "RUNNING":
            raise
