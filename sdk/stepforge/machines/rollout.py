"""How a new version takes the place of the one that serves: instances, traffic, and the alarm that turns it back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.contracts.serving import ALARM_SECONDS, ServeMode, dimensions


class Rollout(Contract):
    """How many instances serve, and how a new version takes their place. Components are replaced one copy at a time."""

    instances: Annotated[int, Field(ge=1)] = 1
    strategy: Literal["canary", "rolling"] = "canary"
    """`canary`: one instance of a new fleet first. `rolling`: one instance after another, without a second fleet."""
    bake_seconds: Annotated[int, Field(ge=0, le=3_600)] = 300
    """Between the first traffic and the rest, and before the old instances go: the time in which the alarm may fire."""
    alarm_topic_arn: str = ""
    """SNS topic that an alarm which is made here tells; empty: nobody."""


def guardrails(alarm: str, rollout: Rollout) -> dict[str, Any]:
    """DeploymentConfig of an update: how the traffic moves to the new fleet, and the alarm that moves it back.

    https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html. One instance cannot be split, so there
    all of the traffic moves at once; the candidate has answered before. Pure.
    """
    rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}
    instance = {"Type": "INSTANCE_COUNT", "Value": 1}
    if rollout.instances > 1 and rollout.strategy == "rolling":
        policy = {
            "MaximumBatchSize": instance,
            "WaitIntervalInSeconds": rollout.bake_seconds,
            "MaximumExecutionTimeoutInSeconds": 28_800,
        }
        return {"RollingUpdatePolicy": policy, **rollback}
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": rollout.bake_seconds}
    if rollout.instances > 1:
        routing = {**routing, "Type": "CANARY", "CanarySize": instance}
    policy = {
        "TrafficRoutingConfiguration": routing,
        "TerminationWaitInSeconds": rollout.bake_seconds,
        # It must hold both waits beside the start of the new fleet.
        "MaximumExecutionTimeoutInSeconds": 3600 + 2 * rollout.bake_seconds,
    }
    return {"BlueGreenUpdatePolicy": policy, **rollback}


def component_guardrails(alarm: str, rollout: Rollout) -> dict[str, Any]:
    """DeploymentConfig of an update of an inference component: a new copy answers before an old one goes. Pure.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_InferenceComponentDeploymentConfig.html
    """
    policy = {
        "MaximumBatchSize": {"Type": "COPY_COUNT", "Value": 1},
        "WaitIntervalInSeconds": rollout.bake_seconds,
        "MaximumExecutionTimeoutInSeconds": min(28_800, 3600 + rollout.instances * rollout.bake_seconds),
    }
    return {"RollingUpdatePolicy": policy, "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}


def ensure_alarm(cloudwatch: Any, endpoint: str, mode: ServeMode = "realtime", *, topic_arn: str = "") -> str:
    """The alarm on the endpoint's 5xx answers, made where there is none: a user's own domain has no alarm of a stack's.

    One that exists is left as it is: whoever made it may have given it actions and another threshold.
    """
    name = f"{endpoint}-5xx"
    told = [topic_arn] if topic_arn else []
    if not cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]:
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            AlarmDescription=f"{endpoint} answers with errors: a deployment that is under way is rolled back",
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            Dimensions=[{"Name": name, "Value": value} for name, value in dimensions(endpoint, mode).items()],
            Statistic="Sum",
            Period=ALARM_SECONDS,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            TreatMissingData="notBreaching",
            AlarmActions=told,
            OKActions=told,
        )
    return name
