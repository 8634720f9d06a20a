"""Stop a run and the job that it waits for, or one job, and take no job away from a run that goes on.

A run waits for a job through a child execution, `run-job-{job}-{run}`. Where that child created the job, Step Functions
stops the job with it; where it adopted the job, nobody does but this module. A run that is left behind takes the next
attempt, which begins at the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.connection import Connection
from stepforge.machines import executions
from stepforge.machines.executions import child_name

CAUSE = "stopped with `stepforge stop`"
_UNDER_WAY = ("InProgress", "Stopping")
_CREATES = ("Create", "CreateInVpc")
"""The states of `run-job` that wait for a job which it created itself."""


@dataclass(frozen=True)
class Waiting:
    """A running execution that waits for a job; `owner` where it started the job itself, and so ends with it."""

    run: str
    owner: bool


@dataclass(frozen=True)
class Stopped:
    """What a request to stop `name` did. `status` is what it was before; `ended` when, where it had ended already."""

    name: str
    status: str
    ended: datetime | None = None
    job: str = ""
    """The job that it waited for; empty where none was under way."""
    job_stopped: bool = False
    waiting: tuple[Waiting, ...] = ()
    """Other executions that wait for that job."""


def waiting_for(connection: Connection, job_prefix: str) -> list[Waiting]:
    """The running executions that wait for a job."""
    states, machine = connection.client("stepfunctions"), connection.environment.machines["run-job"]
    pages = states.get_paginator("list_executions").paginate(
        stateMachineArn=executions.unqualified(machine), statusFilter="RUNNING"
    )
    beginning = child_name(job_prefix, "")
    return [
        Waiting(child["name"].removeprefix(beginning), _owns(states, child["executionArn"]))
        for page in pages
        for child in page["executions"]
        if child["name"].startswith(beginning)
    ]


def stop_job_of(
    connection: Connection, run: str, *, job: str, job_prefix: str, waited: bool
) -> tuple[bool, tuple[Waiting, ...]]:
    """Stop the job of a run that has ended, unless others wait for it.

    Returns whether the job stops, and the others. It stops in spite of others where the run itself had started it and
    `waited` for it until now.
    """
    states, machine = connection.client("stepfunctions"), connection.environment.machines["run-job"]
    child = executions.execution_arn(machine, child_name(job_prefix, run))
    # Before the job: one that still polls would take its end for another's, and start the next attempt.
    executions.stop(states, child, cause=CAUSE)
    others = tuple(waiting for waiting in waiting_for(connection, job_prefix) if waiting.run != run)
    if others:
        return waited and _owns(states, child), others
    stop_job(connection, job)
    return True, ()


def stop_job(connection: Connection, name: str) -> None:
    """Ask a job to stop; nothing happens where it has ended."""
    sagemaker = connection.client("sagemaker")
    try:
        sagemaker.stop_training_job(TrainingJobName=name)
    except AwsError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        if sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in _UNDER_WAY:
            raise


def _owns(states: Any, child: str) -> bool:
    """Whether an execution of `run-job` created the job that it waits for, by the last state that it entered."""
    pages = states.get_paginator("get_execution_history").paginate(
        executionArn=child, reverseOrder=True, includeExecutionData=False
    )
    try:
        for page in pages:
            for event in page["events"]:
                if (entered := event.get("stateEnteredEventDetails")) is not None:
                    return bool(entered["name"] in _CREATES)
    except states.exceptions.ExecutionDoesNotExist:
        return False
    return False
