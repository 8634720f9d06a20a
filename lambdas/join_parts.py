"""Step Functions `dataset`: the parts as one dataset, and the job that gates it."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.machines.assembly import Joined, JoinRequest
from stepforge.machines.assembly import join_parts as join_parts_of


class Environment(Variables):
    bucket: str
    key_arn: str
    environment: str = ""


@handles
def handler(request: JoinRequest) -> Joined:
    env = variables(Environment)
    return join_parts_of(client("s3"), request, bucket=env.bucket, key_arn=env.key_arn, environment=env.environment)
