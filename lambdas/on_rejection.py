"""EventBridge: a package was rejected. Its reason is recorded, so that it outlives the next decision."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from _runtime import client, handles
from stepforge.contracts.events import PackageStateChange
from stepforge.machines.promotion import Decision, on_rejection


class Event(BaseModel):
    """The envelope of EventBridge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail: PackageStateChange


@handles
def handler(event: Event) -> Decision:
    return on_rejection(client("sagemaker"), event.detail)
