"""Step Functions `promote`: check approval, image and every byte of the weights before they serve."""

from __future__ import annotations

from pydantic import Json

from _runtime import Variables, client, handles, variables
from stepforge.contracts.registry import Promotion
from stepforge.contracts.serving import Fleet
from stepforge.machines.deployment import Deployment, verify


class Environment(Variables):
    fleet: Json[Fleet]
    endpoint_poll_seconds: int


@handles
def handler(request: Promotion) -> Deployment:
    env = variables(Environment)
    return verify(client("sagemaker"), client("s3"), request, env.fleet, poll_seconds=env.endpoint_poll_seconds)
