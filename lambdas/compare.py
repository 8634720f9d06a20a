"""Step Functions `train`: the challenger's evaluation against the champion's."""

from __future__ import annotations

from _runtime import client, handles
from stepforge.machines.packages import Compared, CompareRequest, compare_with_champion
from stepforge.machines.planning import PlanRequest, finish


@handles
def handler(request: CompareRequest) -> Compared:
    s3 = client("s3")
    spec, state = finish(s3, PlanRequest(state=request.state))
    return compare_with_champion(client("sagemaker"), s3, spec, state, request.champion)
