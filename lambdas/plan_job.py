"""Step Functions `train`: which job is next. Writes its spec to S3."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.machines.planning import Planned, PlanRequest, plan


class Environment(Variables):
    bucket: str
    key_arn: str
    environment: str = ""


@handles
def handler(request: PlanRequest) -> Planned:
    env = variables(Environment)
    return plan(client("s3"), request, bucket=env.bucket, key_arn=env.key_arn, environment=env.environment)
