"""Step Functions `promote`: check approval, image and every byte of the weights before they serve."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.registry import Promotion
from stepforge.deployment import Deployment, verify


class Environment(Variables):
    serve_instance_type: str
    endpoint_poll_seconds: int
    serve_instances: int = 1


@handles
def handler(request: Promotion) -> Deployment:
    env = variables(Environment)
    return verify(
        client("sagemaker"),
        client("s3"),
        request,
        instance_type=env.serve_instance_type,
        poll_seconds=env.endpoint_poll_seconds,
        instances=env.serve_instances,
    )
