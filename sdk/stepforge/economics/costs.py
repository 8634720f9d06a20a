"""What an environment did cost: the ledger, healed, in sums by domain, type of job, day or run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from stepforge.connection import Connection
from stepforge.contracts.economics import LedgerEntry
from stepforge.economics import ledger, prices
from stepforge.economics.prices import Prices
from stepforge.errors import UnknownName

By = Literal["domain", "type", "day", "run"]
_KEYS: dict[By, Callable[[LedgerEntry], str]] = {
    "domain": lambda entry: entry.domain,
    "type": lambda entry: entry.type,
    "day": lambda entry: entry.ended.date().isoformat(),
    "run": lambda entry: entry.run or "(no run)",
}


@dataclass(frozen=True)
class Row:
    """A sum over attempts, with what could not be added to it."""

    key: str
    usd: float | None
    """Of the attempts with a known price and time; None where that is none of them."""
    jobs: int
    failed: int
    """How many of them ended without success: they are in the sum."""
    instance_seconds: int
    spot_saved_usd: float
    """What the same training seconds would have cost more on demand."""
    unpriced: tuple[str, ...] = ()
    """Instance types without a price."""
    untimed: int = 0
    """Attempts of which SageMaker says no billable time."""


@dataclass(frozen=True)
class Found:
    """What there is in the ledger since a day."""

    entries: tuple[LedgerEntry, ...]
    healed: int
    """How many of them were booked only now."""
    under_way: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Objects that were passed over, each with the reason: what they stand for is in no sum."""

    def by(self, what: By) -> list[Row]:
        """Sums, the dearest first; days in order. Raises UnknownName."""
        if what not in _KEYS:
            raise UnknownName("sum", what, get_args(By))
        groups: dict[str, list[LedgerEntry]] = defaultdict(list)
        for entry in self.entries:
            groups[_KEYS[what](entry)].append(entry)
        rows = [row_of(key, group) for key, group in groups.items()]
        return sorted(rows, key=lambda row: row.key if what == "day" else (-(row.usd or 0.0), row.key))

    @property
    def total(self) -> Row:
        return row_of("total", self.entries)


def row_of(key: str, entries: Iterable[LedgerEntry]) -> Row:
    """The sum of entries. Pure."""
    all_ = list(entries)
    known = [entry for entry in all_ if entry.usd is not None]
    saved = 0.0
    for entry in known:
        if entry.spot_saving is not None and entry.usd_per_hour is not None and entry.training_seconds is not None:
            on_demand = ledger.cost_usd(entry.training_seconds, entry.instance_count, entry.usd_per_hour)
            saved += max(0.0, on_demand - (entry.usd or 0.0))
    return Row(
        key=key,
        usd=sum(entry.usd or 0.0 for entry in known) if known else None,
        jobs=len(all_),
        failed=sum(not entry.succeeded for entry in all_),
        instance_seconds=sum(entry.instance_seconds or 0 for entry in all_),
        spot_saved_usd=saved,
        unpriced=tuple(sorted({entry.instance_type for entry in all_ if entry.usd_per_hour is None})),
        untimed=sum(entry.billable_seconds is None for entry in all_),
    )


def priced(entry: LedgerEntry, table: Prices) -> LedgerEntry:
    """An entry that was booked without a price, with the one that is known by now for the day on which it ended."""
    if entry.usd_per_hour is not None:
        return entry
    row = table.find(entry.instance_type, entry.region, on=entry.ended.date())
    if row is None:
        return entry
    seconds = entry.billable_seconds
    usd = None if seconds is None else ledger.cost_usd(seconds, entry.instance_count, row.usd_per_hour)
    return entry.model_copy(update={"usd_per_hour": row.usd_per_hour, "price_as_of": row.as_of, "usd": usd})


class Costs:
    """The costs of an environment.

    >>> Costs(client.connection).read(since=date(2026, 10, 1)).by("domain")  # doctest: +SKIP
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, *, since: date | None = None, heal: bool = True) -> Found:
        """Entries of jobs that ended `since` a day (UTC). With `heal`, ends that nobody booked are booked first.

        Healing takes a DescribeTrainingJob for each job of which nothing is booked yet, and no list of jobs.
        """
        connection, environment = self._connection, self._connection.environment
        s3, bucket = connection.client("s3"), environment.bucket
        table = prices.load(s3, bucket=bucket)
        kept = ledger.read(s3, bucket=bucket, since=since)
        entries = kept.entries
        found = ledger.Healed()
        if heal:
            found = ledger.heal(
                connection.client("sagemaker"),
                s3,
                bucket=bucket,
                key_arn=environment.key_arn,
                known=entries,
                table=table,
                since=since,
            )
        there = {entry.job for entry in entries}
        new = [e for e in found.booked if e.job not in there and (since is None or e.ended.date() >= since)]
        merged = sorted((*entries, *new), key=lambda entry: (entry.ended, entry.job))
        skipped = (*kept.skipped, *found.skipped)
        return Found(tuple(priced(entry, table) for entry in merged), len(new), found.under_way, skipped)
