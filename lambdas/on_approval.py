"""EventBridge: a package's state change, or the schedule's sweep for events that were lost."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from _runtime import Variables, client, handles, variables
from stepforge.contracts.events import PackageStateChange
from stepforge.promotion import on_event, sweep


class Environment(Variables):
    promote_arn: str


class Event(BaseModel):
    """The envelope of EventBridge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail_type: str = Field(alias="detail-type")
    detail: dict[str, Any] = {}


@handles
def handler(event: Event) -> list[dict[str, Any]]:
    machine_arn = variables(Environment).promote_arn
    sagemaker, states = client("sagemaker"), client("stepfunctions")
    if event.detail_type == "Scheduled Event":
        decisions = sweep(sagemaker, states, machine_arn=machine_arn)
    else:
        change = PackageStateChange.model_validate(event.detail)
        decisions = [on_event(sagemaker, states, change, machine_arn=machine_arn)]
    return [decision.model_dump(mode="json") for decision in decisions]
