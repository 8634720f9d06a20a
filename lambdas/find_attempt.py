"""Step Functions `run-job`: adopt the attempt that runs or is done, or name the next."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.jobs import JobRequest
from stepforge.machines.attempts import Found
from stepforge.machines.attempts import find_attempt as find


class Environment(Variables):
    bucket: str
    key_arn: str
    poll_seconds: int


@handles
def handler(request: JobRequest) -> Found:
    env = variables(Environment)
    return find(
        client("sagemaker"),
        client("s3"),
        request,
        bucket=env.bucket,
        key_arn=env.key_arn,
        poll_seconds=env.poll_seconds,
    )
