"""What the spend ledger holds: one entry a launch, and the lines of its history."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.finetune.job import FAKE_MARK, State
from stepforge.finetune.spec import ProviderName

MICRO = Decimal(1_000_000)
Usd = Annotated[Decimal, Field(ge=0)]


class Stage(StrEnum):
    """Where a launch stands in our books."""

    NEEDS_APPROVAL = "needs approval"
    RESERVED = "reserved"
    SENDING = "sending"
    LAUNCHED = "launched"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REFUSED = "refused"

    @property
    def sent(self) -> bool:
        """Whether the provider has the job."""
        return self in (Stage.LAUNCHED, Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED, Stage.EXPIRED)


ENDS = {
    State.SUCCEEDED: Stage.SUCCEEDED,
    State.FAILED: Stage.FAILED,
    State.CANCELLED: Stage.CANCELLED,
    State.EXPIRED: Stage.EXPIRED,
}


Most = Annotated[Decimal, Field(ge=0, le=1_000_000_000)]


class Budgets(Contract):
    """What may be spent, in US dollars. Nothing has a default: a budget that nobody set is not unlimited."""

    job_usd: Most
    day_usd: Most
    """Of one environment, on one day in UTC."""
    environment_usd: Most
    """Of one environment, ever."""
    approval_usd: Most
    """A launch that may cost more than this waits for a person."""


class Entry(Contract):
    """One launch in the ledger."""

    key: str
    environment: str
    provider: ProviderName
    target: str
    base_model: str
    method: str
    """In words (`TuneSpec.how`)."""
    stage: Stage
    estimate_usd: Usd
    """The estimate's upper end, which budgets are held against."""
    low_usd: Usd | None = None
    """Its lower end; None in entries of before it was kept."""
    expected_usd: Usd | None = None
    """What the bill is expected to say, where that is known (`Estimate.expected_usd`)."""
    actual_usd: Usd | None = None
    job_id: str | None = None
    raw_state: str = ""
    model: str | None = None
    reserved_at: datetime
    sent_at: datetime | None = None
    """When it may have been sent for the last time; None where that is certainly never."""
    approved_by: str | None = None
    note: str = ""

    @property
    def local_fake(self) -> bool:
        """Whether a local server has it or is to have it: no other is called in `local` (`launching.check`)."""
        return self.environment == "local" or (self.job_id is not None and FAKE_MARK in self.job_id)

    @property
    def cost_usd(self) -> Decimal:
        """What it has cost, or may cost."""
        return self.estimate_usd if self.actual_usd is None else self.actual_usd


class Row(Entry):
    """An entry, and who is at work on it."""

    owner: str | None = None
    lease_until: float | None = None

    @property
    def entry(self) -> Entry:
        return Entry.model_validate(self.model_dump(exclude={"owner", "lease_until"}))


class Line(Contract):
    """One line of an entry's history: never changed, never deleted."""

    key: str
    at: datetime
    stage: Stage
    detail: str


Share = tuple[str, str | None]
"""An environment, and a day in UTC or None for all days."""


def shares(row: Row | None) -> dict[Share, Decimal]:
    """What a row counts for in the sums that budgets are held against."""
    if row is None or row.stage in (Stage.NEEDS_APPROVAL, Stage.REFUSED):
        return {}
    return dict.fromkeys([(row.environment, None), (row.environment, day_of(row.reserved_at))], row.cost_usd)


def day_of(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def time_of(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)


def micro(usd: Decimal) -> int:
    """Millionths of a dollar: what stores hold and add up."""
    return int((usd * MICRO).to_integral_value())


def usd_of(micro_usd: int) -> Decimal:
    return Decimal(micro_usd) / MICRO
