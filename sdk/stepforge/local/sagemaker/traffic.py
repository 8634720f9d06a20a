"""How an update moves traffic to the new version, and which alarms turn it back.

https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html. Each version is one process here, so what
the fleets would share by instances is shared by requests. Not covered: MaximumExecutionTimeoutInSeconds, and
RollbackMaximumBatchSize (all goes back at once).
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

Json = Any


class Step(NamedTuple):
    """For `seconds` the new version answers `share` of the requests, in (0, 1]."""

    share: float
    seconds: float


def steps(deployment: Json, instances: int) -> list[Step]:
    """Of a DeploymentConfig; the last one is all of the traffic, before the old version goes.

    >>> rolling = {"MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 5}
    >>> steps({"RollingUpdatePolicy": rolling}, 2)
    [Step(share=0.5, seconds=5), Step(share=1.0, seconds=5)]
    """
    if (rolling := deployment.get("RollingUpdatePolicy")) is not None:
        wait = rolling["WaitIntervalInSeconds"]
        return [Step(share, wait) for share in _shares(_share(rolling["MaximumBatchSize"], instances))]
    policy = deployment.get("BlueGreenUpdatePolicy")
    if policy is None:
        return [Step(1.0, 0)]
    routing, last = policy["TrafficRoutingConfiguration"], Step(1.0, policy.get("TerminationWaitInSeconds", 0))
    wait = routing["WaitIntervalInSeconds"]
    if routing["Type"] == "CANARY":
        return [Step(_share(routing["CanarySize"], instances), wait), last]
    if routing["Type"] == "LINEAR":
        return [*(Step(s, wait) for s in _shares(_share(routing["LinearStepSize"], instances))[:-1]), last]
    return [last]


def alarms(deployment: Json) -> list[str]:
    """Names of what turns an update back."""
    return [one["AlarmName"] for one in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", ())]


def _share(size: Json, instances: int) -> float:
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else instances
    return min(1.0, size["Value"] / whole)


def _shares(step: float) -> list[float]:
    # Rounded: ten steps of a tenth are ten, whatever floats say.
    return [min(1.0, step * number) for number in range(1, ceil(round(1 / step, 9)) + 1)]
