"""Events that stepforge reads from EventBridge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from stepforge.contracts.base import digest
from stepforge.contracts.names import has_prefix


class PackageStateChange(BaseModel):
    """Detail of `SageMaker Model Package State Change`. AWS adds fields at will, so unknown ones are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ModelPackageArn: str
    ModelPackageGroupName: str | None = None
    ModelPackageVersion: int | None = None
    ModelApprovalStatus: str | None = None
    ModelPackageStatus: str | None = None
    UpdatedModelPackageFields: list[str] = []
    LastModifiedTime: Any = None

    @property
    def event_id(self) -> str:
        """AWS may send several events for one change: they share this."""
        when = instant(self.LastModifiedTime)
        return digest([self.ModelPackageArn, "ModelApprovalStatus", self.ModelApprovalStatus, when])

    def is_of(self, group_prefix: str) -> bool:
        """Whether its package is the environment's with this prefix: others in the account hear of the same events."""
        return has_prefix(self.ModelPackageArn.partition("model-package/")[2], group_prefix)

    @property
    def approved_at(self) -> str | None:
        """When it changed (ISO, UTC, to the second); None where that cannot be read."""
        return moment(self.LastModifiedTime)


def moment(value: Any) -> str | None:
    """`instant` of what is one: these can be ordered as text."""
    try:
        return datetime.fromisoformat(instant(value)).isoformat()
    except ValueError:
        return None


def instant(value: Any) -> str:
    """A moment to the second, in UTC, however it is written: events, boto3 and logs each write it otherwise.

    Takes a datetime, ISO 8601, or a number of seconds or milliseconds since the epoch. What is none of these is taken
    as it is: it still tells one change from another.
    """
    if isinstance(value, str):
        try:
            value = float(value) if value.replace(".", "", 1).isdigit() else datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float):
        # Seconds have ten digits until the year 2286, milliseconds thirteen.
        seconds = value / 1000 if value > 1e11 else value
        return datetime.fromtimestamp(int(seconds), UTC).isoformat()
    return str(value)
