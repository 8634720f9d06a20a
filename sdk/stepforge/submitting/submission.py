"""Submit one training job without a state machine: the same name, the same request, the same lock.

CreateTrainingJob has no client token, so the job's name is the only lock (attempts.py): whoever creates it first has
it, and everyone else adopts it. To the create itself a submission adds PutObject (the spec) and DescribeTrainingJob.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.connection import Connection
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import JobRequest, JobSpec, Resources
from stepforge.contracts.names import Keys
from stepforge.economics.estimate import model_of
from stepforge.errors import EnvironmentUnavailable
from stepforge.following.follow import wait_for
from stepforge.following.pace import paced_jobs
from stepforge.machines import attempts
from stepforge.machines.attempts import Action, Attempt
from stepforge.machines.planning import job_request, job_tags, put_spec
from stepforge.patience import hint, trouble
from stepforge.recipes import bound_resources, job_image

_TAKEN = ("ResourceInUse", "ResourceInUseException")
_MOST_LOOKS = 8
"""After refusals because the name is taken: half a minute, about."""


@dataclass(frozen=True)
class Submission:
    """A job's newest attempt, and what was done: `create` it, or `poll` one that runs, or `adopt` one that is done."""

    name: str
    action: Action


def training_request(environment: Environment, request: JobRequest, attempt: Attempt) -> dict[str, Any]:
    """The parameters of CreateTrainingJob, which are those that statemachines/run-job.asl.json sends."""
    bucket = environment.bucket
    return {
        "TrainingJobName": attempt.name,
        "RoleArn": environment.role_of(request.type),
        "AlgorithmSpecification": {
            "TrainingImage": request.image,
            "TrainingInputMode": request.resources.input_mode,
            "MetricDefinitions": attempt.metric_definitions,
        },
        "HyperParameters": {"spec_uri": request.spec_uri, "spec_sha256": request.spec_sha256},
        "InputDataConfig": attempt.input_data_config,
        "OutputDataConfig": attempt.output_data_config,
        "CheckpointConfig": {"S3Uri": f"s3://{bucket}/{Keys.checkpoints(request.prefix)}"},
        "ResourceConfig": attempt.resource_config,
        "StoppingCondition": attempt.stopping_condition,
        "RetryStrategy": {"MaximumRetryAttempts": request.resources.retry_attempts},
        "EnableManagedSpotTraining": request.resources.spot,
        "EnableNetworkIsolation": request.resources.network_isolation,
        "EnableInterContainerTrafficEncryption": request.resources.encrypt_between_hosts,
        **({} if attempt.vpc_config is None else {"VpcConfig": attempt.vpc_config}),
        "Environment": attempt.environment,
        "Tags": attempt.tags,
    }


def spec_request(environment: Environment, spec: JobSpec, resources: Resources | None = None) -> JobRequest:
    """What `run-job` would get for a job that belongs to no run; on the environment's instance where none is given.

    Raises InvalidInput where the environment's image is not pinned, UnknownName for an instance type without training.
    """
    bound = bound_resources({} if resources is None else {spec.type: resources}, environment)[spec.type]
    tags = job_tags(domain=spec.domain, environment=environment.name, model=model_of(spec))
    image = job_image(environment, spec.type)
    return job_request(spec, image=image, resources=bound, bucket=environment.bucket, tags=tags)


def submit(
    connection: Connection,
    spec: JobSpec,
    resources: Resources | None = None,
    *,
    told: Callable[[str], None] = lambda _: None,
) -> Submission:
    """Create the next attempt at a job, or adopt the one that runs or is done. Calling it twice submits one job.

    One that was asked to stop is waited for, and `told` says so: then the next attempt goes on. Raises IdentityConflict
    where the name belongs to another spec, InvalidJob or ResourceLimitExceeded where SageMaker refuses to create it,
    EnvironmentUnavailable where it calls the name taken and has no such job, and botocore's own error for what passes:
    throttling, 5xx, credentials that have expired. Then the same call again creates or adopts.
    """
    environment = connection.environment
    s3, sagemaker = connection.client("s3"), connection.client("sagemaker")
    request = spec_request(environment, spec, resources)
    put_spec(s3, spec, bucket=environment.bucket, key_arn=environment.key_arn)
    taken = 0
    while True:
        attempt = attempts.find_attempt(
            sagemaker, s3, request, bucket=environment.bucket, key_arn=environment.key_arn, poll_seconds=0
        ).attempt
        if attempt.stopping:
            told(f"{attempt.name} is stopping: the next attempt goes on when it has ended")
            list(wait_for(connection, paced_jobs(connection), [attempt.name]))
            continue
        if attempt.action != "create":
            return Submission(attempt.name, attempt.action)
        try:
            sagemaker.create_training_job(**training_request(environment, request, attempt))
        except AwsError as error:
            if error.response["Error"]["Code"] in _TAKEN:
                # Somebody else's create came first, or our own whose answer was lost: look at the job again.
                taken += 1
                _look_again(connection, attempt.name, taken, error)
                continue
            if trouble(error) or hint(error):
                raise  # it says nothing about the job
            caught = attempts.CaughtError(Error=error.response["Error"]["Code"], Cause=str(error))
            raise attempts.creation_failure(attempt.name, caught) from error
        return Submission(attempt.name, "create")


def _look_again(connection: Connection, name: str, taken: int, error: AwsError) -> None:
    """Pause before a job is looked at whose name was taken `taken` times. Raises EnvironmentUnavailable in the end."""
    if taken > _MOST_LOOKS:
        raise EnvironmentUnavailable(
            f"SageMaker refuses to create {name!r} as in use, and has no such job, {taken} times: {error}. Run it "
            "again in some minutes; if it stays so, a seed or another value in the spec gives the job another name"
        ) from error
    if taken > 1:  # who lost a race sees the winner's job at once
        connection.patience.sleep(connection.patience.delay(taken))


def submit_after(
    connection: Connection, spec: JobSpec, ended: dict[str, Any], resources: Resources | None = None
) -> Submission | None:
    """The next attempt, on the next instance type, of a job that ended for want of capacity; else None.

    `ended` is DescribeTrainingJob's answer. The rule is the one of the machine `run-job`; after the last type nothing
    is submitted. Whoever else saw the end may have been first: then theirs is adopted.
    """
    request = spec_request(connection.environment, spec, resources)
    if attempts.type_after(ended, request.resources) is None:
        return None
    return submit(connection, spec, resources)
