"""EventBridge: a package's state change, or the schedule's sweep for events that were lost."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, Json

from _runtime import Variables, client, handles, variables
from stepforge.contracts.events import PackageStateChange
from stepforge.contracts.serving import Fleet
from stepforge.machines.promotion import KEEP_PREVIOUS_DAYS, on_event, sweep


class Environment(Variables):
    fleet: Json[Fleet]
    promote_arn: str
    group_prefix: str
    """Of this environment: another one in the same account hears of the same events."""
    keep_previous_days: float = KEEP_PREVIOUS_DAYS


class Event(BaseModel):
    """The envelope of EventBridge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail_type: str = Field(alias="detail-type")
    detail: dict[str, Any] = {}


@handles
def handler(event: Event) -> list[dict[str, Any]]:
    env = variables(Environment)
    sagemaker, states = client("sagemaker"), client("stepfunctions")
    if event.detail_type == "Scheduled Event":
        decisions = sweep(
            sagemaker,
            states,
            env.fleet,
            machine_arn=env.promote_arn,
            prefix=env.group_prefix,
            keep_previous_days=env.keep_previous_days,
        )
    else:
        change = PackageStateChange.model_validate(event.detail)
        ours = change.is_of(env.group_prefix)
        decisions = [on_event(sagemaker, states, change, env.fleet, machine_arn=env.promote_arn)] if ours else []
    return [decision.model_dump(mode="json") for decision in decisions]
