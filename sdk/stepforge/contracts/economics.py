"""What jobs cost: rows of the price table, and entries of the ledger."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.contracts.work import NonNegativeInt, PositiveInt, WorkType

Usd = Annotated[float, Field(ge=0)]


class Price(Contract):
    """What an instance costs for an hour of training in a region, on demand.

    >>> row = dict(instance_type="ml.g5.xlarge", region="us-east-1", as_of="2026-08-20", source="example")
    >>> Price(usd_per_hour=1.408, confidence="quoted", **row).usd_per_hour
    1.408
    """

    instance_type: Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9-]+$")]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
    usd_per_hour: Annotated[float, Field(gt=0)]
    as_of: date
    """The day for which the source states it; the day on which it was read where the source states none."""
    source: str
    confidence: Literal["list", "quoted", "undated", "given"]
    """`list`: from AWS's price list itself. `quoted`: a dated public quotation of it. `undated`: a public table without
    a date. `given`: somebody of the account typed it, a contract's price say; it goes before all others."""
    until: date | None = None
    """The first day on which a given price does not hold any more; None while it does."""


class PriceTable(Contract):
    """Rows of one file."""

    version: Literal[1] = 1
    rows: tuple[Price, ...] = ()


class LedgerEntry(Contract):
    """One attempt at a job that has ended, booked once: its identity is the training job's ARN.

    Billable time is wall-clock time of each instance: what is paid is `billable_seconds` x `instance_count` x price.
    """

    version: Literal[1] = 1
    arn: str
    job: str
    type: WorkType
    stage: str
    """The stage's name, or the type of a job that is none."""
    domain: str
    run: str = ""
    """The run that created it; empty for a job that was submitted by itself."""
    environment: str = ""
    region: str
    status: str
    """Completed, Failed or Stopped: what failed is billed as well."""
    secondary_status: str = ""
    created: datetime
    ended: datetime
    instance_type: str
    instance_count: PositiveInt
    spot: bool = False
    training_seconds: NonNegativeInt | None = None
    billable_seconds: NonNegativeInt | None = None
    """Of each instance; None where SageMaker does not say."""
    usd_per_hour: float | None = None
    """The price when it was booked; None where it was not known. Never zero for unknown."""
    price_as_of: date | None = None
    usd: Usd | None = None
    work_sha256: str
    """Digest of the work without its seed: jobs that agree in it do equally much."""
    units: Annotated[float, Field(ge=0)]
    """How much work it was; see economics.estimate.units."""
    model: str = ""
    """Where its weights began: jobs that agree in it are equally large. Empty where that is not known."""

    @property
    def succeeded(self) -> bool:
        """Only Completed in both statuses: what was interrupted or timed out may say Completed in one of them."""
        return self.status == "Completed" and self.secondary_status in ("", "Completed")

    @property
    def instance_seconds(self) -> int | None:
        return None if self.billable_seconds is None else self.billable_seconds * self.instance_count

    @property
    def spot_saving(self) -> float | None:
        """1 - billable / training seconds (0.7 is 70 %); None where it did not run on spot, or it is not said."""
        if not self.spot or not self.training_seconds or self.billable_seconds is None:
            return None
        return 1 - self.billable_seconds / self.training_seconds
