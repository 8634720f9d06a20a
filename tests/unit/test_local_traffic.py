"""How an update with a DeploymentConfig moves traffic in the local AWS."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.local.sagemaker.serving import Newcomer
from stepforge.local.sagemaker.traffic import Step, alarms, steps
from stepforge.machines.rollout import Rollout, component_guardrails, guardrails


def blue_green(**routing: Any) -> dict[str, Any]:
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"WaitIntervalInSeconds": 5, **routing},
            "TerminationWaitInSeconds": 7,
        }
    }


@pytest.mark.parametrize(
    ("deployment", "wanted"),
    [
        (guardrails("a", Rollout(instances=2, bake_seconds=5)), [Step(0.5, 5), Step(1, 5)]),
        (guardrails("a", Rollout(bake_seconds=5)), [Step(1, 5)]),
        (guardrails("a", Rollout(instances=2, strategy="rolling", bake_seconds=5)), [Step(0.5, 5), Step(1, 5)]),
        (component_guardrails("a", Rollout(instances=2, bake_seconds=5)), [Step(0.5, 5), Step(1, 5)]),
        (
            blue_green(Type="CANARY", CanarySize={"Type": "CAPACITY_PERCENT", "Value": 10}),
            [Step(0.1, 5), Step(1, 7)],
        ),
        (
            blue_green(Type="LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 40}),
            [Step(0.4, 5), Step(0.8, 5), Step(1, 7)],
        ),
        ({}, [Step(1, 0)]),
    ],
    ids=["canary", "all at once", "rolling", "component", "percent", "linear", "none"],
)
def test_traffic_moves_as_the_deployment_says(deployment: dict[str, Any], wanted: list[Step]) -> None:
    assert steps(deployment, 2) == wanted


def test_a_tenth_rolls_in_ten_steps_whatever_floats_say() -> None:
    rolling = {"MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 10}, "WaitIntervalInSeconds": 1}
    found = steps({"RollingUpdatePolicy": rolling}, 3)
    assert (len(found), found[-1]) == (10, Step(1, 1))


def test_the_alarms_are_those_that_roll_back() -> None:
    assert alarms(guardrails("face-5xx", Rollout())) == ["face-5xx"]
    assert alarms({}) == []


@pytest.mark.parametrize(("share", "answered"), [(0.1, 10), (0.5, 50), (1.0, 100)])
def test_a_newcomer_answers_its_share_evenly(share: float, answered: int) -> None:
    newcomer = Newcomer(None, share)  # type: ignore[arg-type]
    assert sum(newcomer.is_next() for _ in range(100)) == answered
