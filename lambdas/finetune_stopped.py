"""EventBridge: an execution of `finetune` has ended without success, so nobody watches its job: it is cancelled, and
with it its charge; money that was set aside is free again. What has succeeded stays as it is, for the next execution.
"""

from __future__ import annotations

import json
import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from _runtime import client, handles, variables
from finetune import Environment, tools_of
from stepforge.errors import AddressRefused, LaunchUncertain, UnknownName
from stepforge.finetune import flow as steps
from stepforge.finetune.request import Start
from stepforge.machines.executions import after

LATE_SECONDS = 100
"""A function goes on after its execution was stopped. Lambda tries an event again after one minute and after two."""


class Detail(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    input: str
    executionArn: str
    stopDate: int
    """Milliseconds since the epoch."""


class Event(BaseModel):
    """Step Functions Execution Status Change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail: Detail


@handles
def handler(event: Event) -> dict[str, Any]:
    if event.detail.status not in ("ABORTED", "FAILED", "TIMED_OUT"):
        return {"stopped": False, "why": f"the execution is {event.detail.status}"}
    # Events come late and twice: by then the same plan may have been started again.
    if (later := after(client("stepfunctions"), event.detail.executionArn)) is not None:
        return {"stopped": False, "why": f"{later} has taken it over"}
    may_go_on = event.detail.status == "ABORTED" and time.time() - event.detail.stopDate / 1000 < LATE_SECONDS
    start = Start.model_validate(json.loads(event.detail.input))
    try:
        ended = steps.stop(tools_of(variables(Environment)), start)
    except AddressRefused as error:
        # It was refused before anything was sent, so there is nothing to cancel.
        return {"stopped": False, "why": str(error)}
    except UnknownName as error:
        if may_go_on:
            raise LaunchUncertain("it may be decided still, and set money aside: this is looked at again") from error
        return {"stopped": False, "why": "nothing was set aside for it yet"}
    if ended.deploys and may_go_on:
        raise LaunchUncertain("an endpoint may just be made for it: this is looked at again, and removes it")
    return {"stopped": True, "key": ended.entry.key, "stage": ended.entry.stage.value}
