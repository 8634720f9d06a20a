"""EventBridge: a package was rejected. Its reason is recorded, so that it outlives the next decision."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from _runtime import Variables, client, handles, variables
from stepforge.contracts.events import PackageStateChange
from stepforge.machines.promotion import Decision, on_rejection


class Environment(Variables):
    group_prefix: str
    """Of this environment: another one in the same account hears of the same events."""


class Event(BaseModel):
    """The envelope of EventBridge."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    detail: PackageStateChange


@handles
def handler(event: Event) -> Decision | None:
    """None for a package of another environment, about which nothing may be asked."""
    if not event.detail.is_of(variables(Environment).group_prefix):
        return None
    return on_rejection(client("sagemaker"), event.detail)
