"""Whether a training job with a name of ours is the one that was asked for, before its outputs are taken for ours.

Whoever may create jobs can give one our name and, as a hyperparameter, our spec's digest, and run what he likes in it.
So what decides which code ran, and on what, is compared. Not compared: the digest of the image (one that is built anew
from the same code has another), where inputs lie (a job compares their digests with its spec), and the role (one of
another kind of job writes no output below this name).
"""

from __future__ import annotations

from typing import Any

from stepforge import errors, logs
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.names import Keys

_OWN_REPOSITORIES = "stepforge-"
"""What the repositories of an environment's images begin with, and all that the jobs' roles pull from."""
_CHECKPOINTS = "/opt/ml/checkpoints"


def check_is_asked_for(job: dict[str, Any], request: JobRequest) -> None:
    """Raises IdentityConflict where DescribeTrainingJob's answer is not of a job that `request` creates."""
    if found := _differences(job, request):
        raise errors.IdentityConflict(
            f"the training job {job['TrainingJobName']!r} has the spec {request.spec_sha256}, but it was not created "
            f"by `run-job` or `submit`: {'; '.join(found)}. Its outputs prove nothing: find out who created it "
            "(CloudTrail, CreateTrainingJob), and change the spec (another seed, say) to run the work anew"
        )


def _differences(job: dict[str, Any], request: JobRequest) -> list[str]:
    base = f"s3://{request.spec_uri.split('/')[2]}/"
    algorithm = job.get("AlgorithmSpecification", {})
    kept = job.get("CheckpointConfig", {})
    channels = {
        channel["ChannelName"]: channel.get("DataSource", {}).get("S3DataSource", {}).get("S3Uri")
        for channel in job.get("InputDataConfig", [])
    }
    compared = {
        "image's repository": (_repository(algorithm.get("TrainingImage", "")), _repository(request.image)),
        "entry point": (algorithm.get("ContainerEntrypoint", []), []),
        "arguments": (algorithm.get("ContainerArguments", []), []),
        "environment variables": (sorted(set(job.get("Environment", {})) - set(logs.environment())), []),
        "input channels": (sorted(channels), sorted(request.channels)),
        "spec": (channels.get("spec"), request.channels.get("spec")),
        "output": (job.get("OutputDataConfig", {}).get("S3OutputPath"), f"{base}{Keys.job_output()}"),
        "checkpoints": (kept.get("S3Uri"), f"{base}{Keys.checkpoints(request.prefix)}"),
        "folder of checkpoints": (kept.get("LocalPath", _CHECKPOINTS), _CHECKPOINTS),
        "remote shell": (job.get("RemoteDebugConfig", {}).get("EnableRemoteDebug", False), False),
    }
    return [f"{what} {given!r}, asked for {wanted!r}" for what, (given, wanted) in compared.items() if given != wanted]


def _repository(image: str) -> str:
    """Without digest or tag. All of an environment's own are one: with the same code, any of its images will do."""
    registry, slash, name = image.partition("@")[0].rpartition("/")
    return registry + slash + (f"{_OWN_REPOSITORIES}*" if name.startswith(_OWN_REPOSITORIES) else name)
