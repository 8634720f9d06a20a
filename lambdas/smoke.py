"""Step Functions `promote`: an endpoint must answer as the model did in its evaluation."""

from __future__ import annotations

from _runtime import client, handles
from stepforge.machines.deployment import SmokeRequest, SmokeResult
from stepforge.machines.deployment import smoke as ask


@handles
def handler(request: SmokeRequest) -> SmokeResult:
    return ask(client("sagemaker-runtime"), client("s3"), request.deployment, request.endpoint)
