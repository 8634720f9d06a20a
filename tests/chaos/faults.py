"""The classes of error, as each kind of task meets them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Literal

import ministack.services.stepfunctions as sfn

from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.names import Keys
from stepforge.local.backend import waiting

from .tunes import settle
from .world import BUCKET, Attempt, World

Kind = Literal["handler", "job", "call", "nested", "person"]
Json = Any

TRANSIENT: dict[str, dict[Kind, str]] = {
    "throttled": {
        "handler": "Throttled",
        "job": "SageMaker.AmazonSageMakerException",
        "call": "SageMaker.SageMakerException",
        "nested": "StepFunctions.ThrottlingException",
        "person": "Throttled",
    },
    "quota": {
        "handler": "Lambda.TooManyRequestsException",
        "job": "SageMaker.ResourceLimitExceededException",
        "call": "SageMaker.ThrottlingException",
        "nested": "StepFunctions.ExecutionLimitExceededException",
        "person": "Lambda.TooManyRequestsException",
    },
    "duplicate": {
        "handler": "Lambda.SdkClientException",
        "job": "SageMaker.AmazonSageMakerException",
        "call": "SageMaker.SageMakerException",
        "nested": "StepFunctions.AWSStepFunctionsException",
        "person": "Lambda.SdkClientException",
    },
}
CLASSES = {
    "throttled": "The service asks to call later, twice.",
    "quota": "A quota is used up for three attempts.",
    "capacity": "The cloud has no such instance, or no place to run.",
    "algorithm": "The code of the job or the handler fails.",
    "time-out": "The task is over its time.",
    "malformed": "What comes back is not what was asked for; a job leaves no manifest.",
    "duplicate": "It is done, the answer is lost, and it is done again.",
    "cancelled": "The execution is stopped while the task runs.",
}


def kind_of(resource: str) -> Kind:
    if resource.startswith("arn:aws:lambda:"):
        return "handler"
    if resource.endswith(".waitForTaskToken"):
        return "person"
    if "createTrainingJob" in resource:
        return "job"
    return "nested" if "startExecution" in resource else "call"


def inject(world: World, attempt: Attempt, fault: str) -> Json:
    """What an attempt meets of a class of error."""
    kind = kind_of(attempt.resource)
    if fault == "cancelled":
        world.stop(attempt.execution)
        if attempt.machine == "finetune":
            # The rule is quicker than the function, which goes on though nobody waits for it.
            settle(world, attempt.execution, late=False)
            _go_on(attempt)
        waiting.check()
    if fault == "time-out":
        raise sfn._ExecutionError("States.Timeout", "Task timed out")
    if fault == "malformed":
        return _malformed(world, attempt, kind)
    if fault in ("capacity", "algorithm"):
        return _fail(world, attempt, kind, "CapacityError" if fault == "capacity" else "AlgorithmError")
    times = {"throttled": 2, "quota": 3, "duplicate": 1}[fault]
    if attempt.number >= times:
        return attempt.proceed()
    if fault == "duplicate":
        attempt.proceed()
    raise sfn._ExecutionError(TRANSIENT[fault][kind], f"{fault}: try again")


def _go_on(attempt: Attempt) -> None:
    with suppress(sfn._ExecutionError):
        attempt.proceed()


def _malformed(world: World, attempt: Attempt, kind: Kind) -> Json:
    if kind != "job":
        return {"unexpected": True}
    job = attempt.proceed()
    world.s3.delete_object(Bucket=BUCKET, Key=Keys.artifact(job["TrainingJobName"]) + MANIFEST)
    return job


def _fail(world: World, attempt: Attempt, kind: Kind, error: str) -> Json:
    if kind == "job":
        world.job_ends = lambda spec: f"{error}: as told"
        try:
            return attempt.proceed()
        finally:
            world.job_ends = None
    if kind == "nested":
        child = {"Status": "FAILED", "Name": "a child", "Error": error, "Cause": "as told"}
        raise sfn._ExecutionError("States.TaskFailed", json.dumps(child))
    raise sfn._ExecutionError(error, json.dumps({"errorType": error, "errorMessage": "as told"}))
