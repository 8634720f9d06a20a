"""Step Functions `promote`: write on the package how its promotion ended."""

from __future__ import annotations

from _runtime import client, handles
from stepforge.machines.deployment import Stamp
from stepforge.machines.deployment import stamp as write


@handles
def handler(request: Stamp) -> Stamp:
    write(client("sagemaker"), request.promotion, request.result, request.reason)
    return request
