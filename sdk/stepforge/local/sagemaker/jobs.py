"""Training jobs: the API. What a job does while it runs is in `training.py`.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html and its neighbours.
"""

from __future__ import annotations

import time
from typing import Any

from stepforge.contracts.names import INTERRUPT_TAG
from stepforge.local.sagemaker.context import Context, check_no_secrets
from stepforge.local.sagemaker.errors import in_use, not_found, validation
from stepforge.local.sagemaker.listing import page

Json = Any
ENDED = ("Completed", "Failed", "Stopped")
MOST_HOSTS = 8
_SPECIFIED = (
    "HyperParameters",
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "VpcConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "CheckpointConfig",
    "DebugHookConfig",
    "ExperimentConfig",
    "DebugRuleConfigurations",
    "TensorBoardOutputConfig",
    "ProfilerConfig",
    "ProfilerRuleConfigurations",
    "Environment",
    "RetryStrategy",
    "RemoteDebugConfig",
    "InfraCheckConfig",
)


def create(context: Context, request: Json) -> Json:
    name = request["TrainingJobName"]
    arn = context.arn("training-job", name)
    _check(context, request)
    now = time.time()
    job = {
        **{key: request[key] for key in _SPECIFIED if key in request},
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
        "EnableInterContainerTrafficEncryption": request.get("EnableInterContainerTrafficEncryption", False),
        "EnableManagedSpotTraining": request.get("EnableManagedSpotTraining", False),
        "TrainingJobName": name,
        "TrainingJobArn": arn,
        "TrainingJobStatus": "InProgress",
        "CreationTime": now,
        "LastModifiedTime": now,
        "ModelArtifacts": {"S3ModelArtifacts": artifacts_uri(request)},
        "SecondaryStatus": "Starting",
        "SecondaryStatusTransitions": [
            {"Status": "Starting", "StartTime": now, "StatusMessage": "Preparing the instances for training"}
        ],
        "Attempts": 0,
    }
    with context.store.transaction():
        if context.store.get("job", name) is not None:
            raise in_use(
                "Training job names must be unique within an AWS account and region, "
                f"and a training job with this name already exists ({arn})"
            )
        context.store.put("job", name, job)
        context.store.tag(arn, request.get("Tags", []))
        post_event(context, job)
    context.jobs_changed()
    return {"TrainingJobArn": arn}


def _check(context: Context, request: Json) -> None:
    algorithm = request.get("AlgorithmSpecification", {})
    image = algorithm.get("TrainingImage")
    if not image:
        raise validation(
            "AlgorithmSpecification.TrainingImage is missing: only jobs with an image of their own run here"
        )
    context.command(image, "train")
    if algorithm.get("ContainerEntrypoint"):
        raise validation("ContainerEntrypoint would run any command: register an image with that entry point instead")
    context.check_variables(request.get("Environment", {}))
    check_no_secrets(request.get("HyperParameters", {}), "Hyperparameter")
    for field in ("RoleArn", "OutputDataConfig", "StoppingCondition", "ResourceConfig"):
        if field not in request:
            raise validation(f"{field} is missing")
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] != "S3Prefix":
            raise validation(
                f"channel {channel['ChannelName']!r}: only S3DataSource with S3DataType S3Prefix runs here"
            )
    names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if len(set(names)) != len(names):
        raise validation(f"channel names must be unique, given {names}")
    if not 1 <= (count := request["ResourceConfig"].get("InstanceCount", 1)) <= MOST_HOSTS:
        raise validation(f"ResourceConfig.InstanceCount must be 1 to {MOST_HOSTS} here, given {count} (a process each)")
    condition = request["StoppingCondition"]
    if request.get("EnableManagedSpotTraining"):
        if "MaxWaitTimeInSeconds" not in condition:
            raise validation("MaxWaitTimeInSeconds is required when EnableManagedSpotTraining is true")
        if condition["MaxWaitTimeInSeconds"] < condition.get("MaxRuntimeInSeconds", 86_400):
            raise validation("MaxWaitTimeInSeconds must be equal to or greater than MaxRuntimeInSeconds")
    elif "MaxWaitTimeInSeconds" in condition:
        raise validation("MaxWaitTimeInSeconds is only for jobs with EnableManagedSpotTraining")


def ask_interruption(context: Context, arn: str) -> None:
    """Raises ValidationException for a job whose instances nobody takes away."""
    job = _known(context, arn.rpartition("/")[2])
    if not job["EnableManagedSpotTraining"]:
        raise validation(f"{job['TrainingJobName']} is no managed spot job: nothing takes its instances away")
    if job["TrainingJobStatus"] != "InProgress":
        raise validation(f"{job['TrainingJobName']} is {job['TrainingJobStatus']}: there is nothing to interrupt")
    context.jobs_changed()


def take_interruption(context: Context, job: Json) -> bool:
    """Whether an interruption was asked for since the last look."""
    arn = job["TrainingJobArn"]
    if not any(tag["Key"] == INTERRUPT_TAG for tag in context.store.tags(arn)):
        return False
    context.store.untag(arn, [INTERRUPT_TAG])
    return True


def artifacts_uri(request: Json) -> str:
    output = request["OutputDataConfig"]
    folder = f"{output['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/output"
    return f"{folder}/model/" if output.get("CompressionType") == "NONE" else f"{folder}/model.tar.gz"


def post_event(context: Context, job: Json) -> None:
    """https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html"""
    context.post_event("SageMaker Training Job State Change", job["TrainingJobArn"], job, "DescribeTrainingJob")


def _known(context: Context, name: str) -> Json:
    job = context.store.get("job", name)
    if job is None:
        raise not_found()
    return job


def describe(context: Context, request: Json) -> Json:
    return _known(context, request["TrainingJobName"])


def stop(context: Context, request: Json) -> Json:
    with context.store.transaction():
        job = _known(context, request["TrainingJobName"])
        if job["TrainingJobStatus"] == "Stopping":
            return {}
        if job["TrainingJobStatus"] in ENDED:
            raise validation(
                f"The request was rejected because the training job is in status {job['TrainingJobStatus']}."
            )
        transition(context, job, "Stopping", status="Stopping", message="Stopping the training job")
    context.jobs_changed()
    return {}


def list_(context: Context, request: Json) -> Json:
    fields = (
        "TrainingJobName",
        "TrainingJobArn",
        "CreationTime",
        "TrainingEndTime",
        "LastModifiedTime",
        "TrainingJobStatus",
        "SecondaryStatus",
    )
    jobs = [{key: job[key] for key in fields if key in job} for job in context.store.all("job")]
    return page(
        request, jobs, "TrainingJobSummaries", name="TrainingJobName", filters={"StatusEquals": "TrainingJobStatus"}
    )


def transition(context: Context, job: Json, secondary: str, *, status: str | None = None, message: str = "") -> None:
    """Move a job on and write it, with its event, in one transaction."""
    now = time.time()
    if job["SecondaryStatusTransitions"]:
        job["SecondaryStatusTransitions"][-1].setdefault("EndTime", now)
    entry = {"Status": secondary, "StartTime": now, "StatusMessage": message}
    if status in ENDED:
        entry["EndTime"] = now
    job["SecondaryStatusTransitions"].append(entry)
    job |= {"SecondaryStatus": secondary, "LastModifiedTime": now}
    if status is not None:
        job["TrainingJobStatus"] = status
    with context.store.transaction():
        context.store.put("job", job["TrainingJobName"], job)
        post_event(context, job)
