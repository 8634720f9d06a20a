"""EventBridge: an execution of `finetune` was stopped or timed out, so its job is cancelled, and with it its charge."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from _runtime import handles, variables
from finetune import Environment, tools_of
from stepforge.errors import UnknownName
from stepforge.finetune import flow as steps


class Detail(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    input: str


class Event(BaseModel):
    """Step Functions Execution Status Change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail: Detail


@handles
def handler(event: Event) -> dict[str, Any]:
    if event.detail.status not in ("ABORTED", "TIMED_OUT"):
        return {"stopped": False, "why": f"the execution is {event.detail.status}"}
    start = steps.Start.model_validate(json.loads(event.detail.input))
    try:
        entry = steps.stop(tools_of(variables(Environment)), start)
    except UnknownName:
        return {"stopped": False, "why": "nothing was set aside for it yet"}
    return {"stopped": True, "key": entry.key, "stage": entry.stage.value}
