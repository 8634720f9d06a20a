"""Step Functions `dataset`: a job for each source of records, listed in S3 for the Map."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.machines.assembly import PlannedParts, PlanRequest
from stepforge.machines.assembly import plan_parts as plan_parts_of


class Environment(Variables):
    bucket: str
    key_arn: str
    environment: str = ""


@handles
def handler(request: PlanRequest) -> PlannedParts:
    env = variables(Environment)
    return plan_parts_of(client("s3"), request, bucket=env.bucket, key_arn=env.key_arn, environment=env.environment)
