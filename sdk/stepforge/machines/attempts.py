"""Attempts of a training job: find the one to adopt, or the name of the next; and say how one ended.

CreateTrainingJob has no client token, so the name `{type}-{12 hex of the spec}-a{attempt}` is the only lock.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field

from stepforge import errors, logs
from stepforge.absence import existing
from stepforge.artifacts import read_manifest
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobRequest
from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.metrics import PROGRESS_EVENT, SHOWN, TOKENS_PER_SECOND
from stepforge.contracts.names import SPEC_TAG, Keys, job_name
from stepforge.contracts.resources import OWN_STORAGE, Resources
from stepforge.contracts.work import TRAINING
from stepforge.exposure import refuse_secrets
from stepforge.machines.adoption import check_is_asked_for

MAX_ATTEMPTS = 50
CHOICE_TAG = "stepforge:instance-choice"
Action = Literal["create", "poll", "adopt"]
Ending = Literal["Completed", "Failed", "Stopped", "MaxRuntimeExceeded", "MaxWaitTimeExceeded", "Interrupted"]

_FAILURES: tuple[tuple[str, type[errors.JobFailed]], ...] = (
    ("AlgorithmError", errors.AlgorithmError),
    ("ClientError", errors.InvalidJob),
    ("CapacityError", errors.CapacityError),
    ("InsufficientCapacity", errors.CapacityError),
    ("InternalServerError", errors.InternalServerError),
    ("ResourceLimitExceeded", errors.ResourceLimitExceeded),
)


class Attempt(Contract):
    """What `run-job` does next, and the parts of CreateTrainingJob that depend on the request."""

    name: str
    action: Action
    stopping: bool = False
    """Whether the one to poll was asked to stop: when it has ended, the next attempt goes on."""
    poll_seconds: int
    input_data_config: list[dict[str, Any]]
    resource_config: dict[str, Any]
    stopping_condition: dict[str, int]
    output_data_config: dict[str, str] = {}
    vpc_config: dict[str, list[str]] | None = None
    metric_definitions: list[dict[str, str]] = []
    """Of a job that trains: where SageMaker finds its metrics in the log, for CloudWatch and Studio."""
    environment: dict[str, str] = {}
    """Trace, request and session of who creates it; empty where nothing is created. No part of the job's identity."""
    tags: list[dict[str, str]]


class Found(Contract):
    request: JobRequest
    attempt: Attempt


class CaughtError(Contract):
    """What a state machine's Catch leaves behind."""

    Error: str = ""
    Cause: str = ""
    longest: Annotated[int, Field(gt=0, le=4_000)] = 4_000
    """Characters of the cause that are wanted: what a Map answers for hundreds of items has to stay small."""


class Ended(Contract):
    """An attempt that is said to have ended; `error` is what CreateTrainingJob raised, where it did."""

    request: JobRequest
    attempt: Attempt
    error: CaughtError | None = None


def find_attempt(
    sagemaker: Any, s3: Any, request: JobRequest, *, bucket: str, key_arn: str, poll_seconds: int
) -> Found:
    """Describe `-a0`, `-a1`, ... and adopt what runs or is done; after failures the next number is free.

    What another environment of the account has made is passed over. Where the last of ours found no capacity, the next
    runs on the next instance type of the request's list.
    Raises IdentityConflict where the name belongs to another job, JobFailed after 50 failed attempts.
    """
    refused: str | None = None
    for number in range(MAX_ATTEMPTS):
        name = job_name(request.prefix, number)
        job = describe(sagemaker, request, name, bucket=bucket)
        if job is not None and is_anothers(job, bucket=bucket):
            continue
        action = next_action(job)
        if action == "adopt" and not _is_whole(s3, job, bucket=bucket):
            continue
        if action is not None:
            attempt = _attempt(
                request,
                name,
                action,
                bucket=bucket,
                key_arn=key_arn,
                poll_seconds=poll_seconds,
                instance_type=next_instance_type(request.resources, refused),
                stopping=job is not None and job["TrainingJobStatus"] == "Stopping",
            )
            return Found(request=request, attempt=attempt)
        refused = refused_type(job)
    raise errors.JobFailed(
        f"{request.prefix!r} failed {MAX_ATTEMPTS} times: look at the last failure, and change the spec"
    )


def attempt_at(
    request: JobRequest, name: str, *, bucket: str, key_arn: str, instance_type: str | None = None
) -> Attempt:
    """An attempt as it would be created, without asking whether it may; on the wanted type if none is named."""
    return _attempt(
        request, name, "create", bucket=bucket, key_arn=key_arn, poll_seconds=0, instance_type=instance_type
    )


def describe(sagemaker: Any, request: JobRequest, name: str, *, bucket: str) -> dict[str, Any] | None:
    """DescribeTrainingJob, None where there is no such job.

    Raises IdentityConflict where it is another spec's or another environment's, or is not what was asked for.
    """
    job = existing(sagemaker.describe_training_job, TrainingJobName=name)
    if job is None:
        return None
    # What the job was created with cannot change, as its tags can, and it costs no call of its own.
    found = job.get("HyperParameters", {}).get("spec_sha256")
    if found is None:
        tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
        found = next((tag["Value"] for tag in tags if tag["Key"] == SPEC_TAG), None)
    if found != request.spec_sha256:
        raise errors.IdentityConflict(
            f"the training job {name!r} exists with the spec {found or 'of someone else (no tag)'}, "
            f"but {request.spec_sha256} was asked for: delete or rename nothing, change the spec"
        )
    if not is_anothers(job, bucket=bucket) and next_action(job) is not None:  # of a spent attempt nothing is taken
        check_is_asked_for(job, request)
    return job


def is_anothers(job: dict[str, Any], *, bucket: str) -> bool:
    """Whether a job of this account and region is another environment's, by the bucket that it writes to.

    A job's name holds no environment, so that the same recipe in two of them asks for the same names: nothing of the
    other's is adopted or waited for, and the next number is free.
    """
    target = job.get("OutputDataConfig", {}).get("S3OutputPath")
    return target is not None and target.removeprefix("s3://").partition("/")[0] != bucket


def name_after(prefix: str, name: str | None) -> str:
    """Of the attempt that follows this one, or of the first."""
    return job_name(prefix, 0 if name is None else 1 + int(name.rpartition("-a")[2]))


def _is_whole(s3: Any, job: dict[str, Any] | None, *, bucket: str) -> bool:
    assert job is not None  # what is adopted was described
    try:
        completed(s3, job, bucket=bucket, adopted=True)
    except errors.JobFailed:
        return False
    return True


def next_action(job: dict[str, Any] | None) -> Action | None:
    """What to do about a described job; None where its attempt is spent. One to adopt still needs a sound manifest."""
    if job is None:
        return "create"
    if job["TrainingJobStatus"] in ("InProgress", "Stopping"):
        return "poll"
    return "adopt" if succeeded(job) else None


def succeeded(job: dict[str, Any]) -> bool:
    """Only Completed in both statuses: an interrupted or timed-out job may say Completed in one of them."""
    return job["TrainingJobStatus"] == "Completed" and job.get("SecondaryStatus", "Completed") == "Completed"


def ending(job: dict[str, Any]) -> Ending | None:
    """How a described job ended; None while it runs. Completed where both statuses say so alone."""
    status, secondary = job["TrainingJobStatus"], job.get("SecondaryStatus", "")
    if status in ("InProgress", "Stopping"):
        return None
    if secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded", "Interrupted"):
        return secondary
    if status == "Completed":
        return "Completed" if succeeded(job) else "Failed"
    return "Stopped" if status == "Stopped" else "Failed"


def outcome(sagemaker: Any, s3: Any, ended: Ended, *, bucket: str) -> JobOutcome:
    """The outcome of a Completed attempt with the digest of its manifest.

    Raises the JobFailed that says why there is none; JobStillRunning where another execution won the race for the
    name, and NameTaken where another environment did; InstanceTypeUnavailable where the cloud had no capacity and the
    request names another type.
    """
    name = ended.attempt.name
    job = describe(sagemaker, ended.request, name, bucket=bucket)
    if job is None:
        raise creation_failure(name, ended.error or CaughtError())
    if is_anothers(job, bucket=bucket):
        raise errors.NameTaken(f"{name} was taken by another environment of this account: the next number is tried")
    if job["TrainingJobStatus"] in ("InProgress", "Stopping"):
        raise errors.JobStillRunning(f"{name} is {job['TrainingJobStatus']}")
    if (another := type_after(job, ended.request.resources)) is not None:
        raise errors.InstanceTypeUnavailable(f"{name}: {job_failure(job)} The next attempt takes {another}")
    return completed(s3, job, bucket=bucket, adopted=ended.attempt.action != "create")


def completed(s3: Any, job: dict[str, Any], *, bucket: str, adopted: bool) -> JobOutcome:
    """The outcome of a described job. Raises the JobFailed that says why there is none.

    Stopped is no success, nor is an end without a sound manifest: a job writes that last.
    """
    if not succeeded(job):
        raise job_failure(job)
    name = job["TrainingJobName"]
    uri = f"s3://{bucket}/{Keys.artifact(name)}"
    try:
        manifest = read_manifest(s3, uri)
    except (errors.InvalidInput, errors.IntegrityError) as error:
        raise errors.AlgorithmError(
            f"{name} is Completed, but it left no sound {MANIFEST}, which a job writes last: its process ended before "
            "it was done, as os._exit() in code that it runs would end it. The same command starts the next attempt"
        ) from error
    return JobOutcome.model_validate(
        {
            "name": name,
            "arn": job["TrainingJobArn"],
            "type": name.partition("-")[0],
            "artifact": ArtifactRef(uri=uri, sha256=manifest.sha256),
            "billable_seconds": job.get("BillableTimeInSeconds", 0),
            "instance_type": job["ResourceConfig"].get("InstanceType", ""),
            "adopted": adopted,
        }
    )


def job_failure(job: dict[str, Any]) -> errors.JobFailed:
    """The typed error of a job that ended without success, with SageMaker's reason cleaned of its prefix."""
    name, secondary = job["TrainingJobName"], job.get("SecondaryStatus", "")
    reason = (job.get("FailureReason") or "").strip()
    ended, limit = ending(job), job.get("StoppingCondition", {})
    if ended == "MaxRuntimeExceeded":
        return errors.MaxRuntimeExceeded(
            f"{name} ended with {secondary}: its limits are {limit}. Raise them, or do less"
        )
    if ended == "MaxWaitTimeExceeded":
        return errors.MaxWaitTimeExceeded(
            f"{name} ended with {secondary}: no spot instance was free for long enough, its limits are {limit}. Raise "
            "MaxWaitTimeInSeconds, or do without spot"
        )
    for prefix, kind in _FAILURES:
        if reason.startswith(prefix):
            return kind(reason.removeprefix(prefix).lstrip(": ") or f"{name} gave no reason; see its log")
    if ended == "Interrupted":
        return errors.Interrupted(
            f"{name} lost its spot instance before it was done ({secondary}). Start it again: it goes on from its "
            "checkpoint"
        )
    if ended == "Stopped":
        return errors.Stopped(
            f"{name} was stopped before it was done ({secondary or 'Stopped'}). Start it again to go on"
        )
    return errors.JobFailed(reason or f"{name} ended as {job['TrainingJobStatus']} ({secondary}) without a reason")


def refused_type(job: dict[str, Any] | None) -> str | None:
    """The instance type for which the cloud had no capacity; None where a job did not fail for that."""
    if job is None or job["TrainingJobStatus"] != "Failed" or not isinstance(job_failure(job), errors.CapacityError):
        return None
    found: str | None = job["ResourceConfig"].get("InstanceType")
    return found


def type_after(job: dict[str, Any], resources: Resources) -> str | None:
    """The instance type with which a job that found no capacity is tried at once; None where it ended otherwise, or
    on the last type."""
    refused = refused_type(job)
    return next_instance_type(resources, refused) if refused in resources.instance_types[:-1] else None


def next_instance_type(resources: Resources, refused: str | None) -> str:
    """The type after the one that was just refused; the wanted one where none was, or after the last."""
    types = resources.instance_types
    after = types.index(refused) + 1 if refused in types else 0
    return types[after % len(types)]


def types_to_come(resources: Resources, last: dict[str, Any] | None) -> tuple[str, ...]:
    """The instance types that one submission may take, the next one first, after an attempt that is described."""
    types = resources.instance_types
    return types[types.index(next_instance_type(resources, refused_type(last))) :]


def creation_failure(name: str, error: CaughtError) -> errors.JobFailed:
    """The typed error of a job that could not be created."""
    text = f"{name} could not be created: {error.Cause or error.Error or 'no reason was given'}"
    if "ResourceLimitExceeded" in error.Error or "ResourceLimitExceeded" in error.Cause:
        return errors.ResourceLimitExceeded(text)
    return errors.InvalidJob(text)


def volume_key(instance_type: str, key_arn: str) -> str | None:
    """The KMS key of an instance's volume; None where the instance type does not take one."""
    return None if any(fnmatchcase(instance_type, pattern) for pattern in OWN_STORAGE) else key_arn


def _attempt(
    request: JobRequest,
    name: str,
    action: Action,
    *,
    bucket: str,
    key_arn: str,
    poll_seconds: int,
    instance_type: str | None = None,
    stopping: bool = False,
) -> Attempt:
    resources = request.resources
    chosen = instance_type or resources.instance_type
    return Attempt(
        name=name,
        action=action,
        stopping=stopping,
        poll_seconds=poll_seconds,
        input_data_config=[_channel(channel, uri) for channel, uri in sorted(request.channels.items())],
        resource_config=_resource_config(resources, chosen, key_arn),
        stopping_condition=_stopping_condition(resources),
        output_data_config={
            "S3OutputPath": f"s3://{bucket}/{Keys.job_output()}",
            "KmsKeyId": resources.output_key_arn or key_arn,
            "CompressionType": "NONE",
        },
        vpc_config=None
        if resources.vpc is None
        else {"Subnets": list(resources.vpc.subnets), "SecurityGroupIds": list(resources.vpc.security_groups)},
        metric_definitions=_metric_definitions() if request.prefix.partition("-")[0] in TRAINING else [],
        environment=_environment() if action == "create" else {},
        tags=[
            {"Key": SPEC_TAG, "Value": request.spec_sha256},
            {"Key": "stepforge:type", "Value": request.prefix.partition("-")[0]},
            *({"Key": key, "Value": value} for key, value in sorted(request.tags.items())),
            *_choice_tag(resources, chosen),
        ],
    )


def _metric_definitions() -> list[dict[str, str]]:
    """A progress line is one JSON object a step; a metric that is nan has no value there, and is left out."""
    number = r"(-?[0-9.]+(?:e[-+]?[0-9]+)?)"
    return [
        {"Name": name, "Regex": f'"event": "{PROGRESS_EVENT}".*"{name}": {number}'}
        for name in (*SHOWN, TOKENS_PER_SECOND)
    ]


def _resource_config(resources: Resources, instance_type: str, key_arn: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "InstanceType": instance_type,
        "InstanceCount": resources.instance_count,
        "VolumeSizeInGB": resources.volume_gb,
    }
    if (key := volume_key(instance_type, resources.volume_key_arn or key_arn)) is not None:
        config["VolumeKmsKeyId"] = key
    if resources.keep_alive_seconds is not None:
        config["KeepAlivePeriodInSeconds"] = resources.keep_alive_seconds
    return config


def _environment() -> dict[str, str]:
    """The ids of here for a job's environment. Raises InvalidInput where the caller's are a secret."""
    ids = logs.environment()
    refuse_secrets(ids, what="Environment variable")
    return ids


def _choice_tag(resources: Resources, instance_type: str) -> list[dict[str, str]]:
    """Which of several instance types an attempt took, for those who look at it in the console."""
    types = resources.instance_types
    if len(types) == 1:
        return []
    return [{"Key": CHOICE_TAG, "Value": f"{types.index(instance_type) + 1} of {len(types)}"}]


def _stopping_condition(resources: Resources) -> dict[str, int]:
    limit = {"MaxRuntimeInSeconds": resources.max_runtime_seconds}
    if (wait := resources.wait_seconds) is not None:
        limit["MaxWaitTimeInSeconds"] = wait
    return limit


def _channel(name: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {
            "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
        },
    }
