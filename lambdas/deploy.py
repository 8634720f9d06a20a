"""Step Functions `promote`: everything that changes or watches an endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from _runtime import Variables, client, handles, variables
from stepforge.contracts.base import Contract
from stepforge.machines import deployment as steps
from stepforge.machines.rollout import Rollout


class Environment(Variables):
    serving_role_arn: str
    key_arn: str
    rollout: Literal["canary", "rolling"] = "canary"
    bake_seconds: int = 300
    alarm_topic_arn: str = ""


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["candidate", "check_candidate", "look_live", "live", "check_live", "roll_back", "remove_candidate"]
    deployment: steps.Deployment
    execution_arn: str
    failed: bool = False


class Answer(Contract):
    state: Literal["ready", "wait"] = "ready"
    previous_config: str | None = None
    """What the live endpoint goes back to, of `look_live`."""


@handles
def handler(request: Request) -> Answer:
    env, sagemaker, deployment = variables(Environment), client("sagemaker"), request.deployment
    match request.action:
        case "candidate":
            steps.prepare(sagemaker, deployment, role_arn=env.serving_role_arn, key_arn=env.key_arn)
            steps.deploy_candidate(sagemaker, client("stepfunctions"), deployment, execution_arn=request.execution_arn)
        case "check_candidate":
            return Answer(state=steps.endpoint_state(sagemaker, deployment, deployment.candidate))
        case "look_live":
            return Answer(previous_config=steps.look_live(sagemaker, deployment))
        case "live":
            rollout = Rollout(
                instances=deployment.fleet.instances,
                strategy=env.rollout,
                bake_seconds=env.bake_seconds,
                alarm_topic_arn=env.alarm_topic_arn,
            )
            steps.deploy_live(sagemaker, client("cloudwatch"), deployment, rollout)
        case "check_live":
            return Answer(state=steps.check_live(sagemaker, deployment))
        case "roll_back":
            steps.roll_back(sagemaker, deployment)
        case "remove_candidate":
            steps.remove_candidate(sagemaker, deployment, execution_arn=request.execution_arn, failed=request.failed)
    return Answer()
