"""Step Functions `evaluate`: the job of an evaluation. Writes its spec to S3."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.jobs import JobRequest
from stepforge.machines.assembly import PlanRequest
from stepforge.machines.assembly import plan_evaluation as plan_evaluation_of


class Environment(Variables):
    bucket: str
    key_arn: str
    environment: str = ""


@handles
def handler(request: PlanRequest) -> JobRequest:
    env = variables(Environment)
    return plan_evaluation_of(
        client("s3"), request, bucket=env.bucket, key_arn=env.key_arn, environment=env.environment
    )
