"""What a run cost. A missing price never becomes zero. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepforge.report.data import AttemptView, JobView


@dataclass(frozen=True)
class Cost:
    """A sum over attempts, with what could not be added to it."""

    seconds: int
    """Billable seconds of all instances, of the attempts whose time is known."""
    usd: float
    """Of the attempts whose time and price are known."""
    unpriced: tuple[str, ...] = ()
    """Instance types without a price."""
    untimed: int = 0
    """Attempts for which SageMaker says no billable time."""
    attempts: int = 0

    @property
    def known(self) -> bool:
        return not self.unpriced and not self.untimed

    @property
    def nothing_known(self) -> bool:
        """Whether not even a part of the sum is known."""
        return not self.known and self.usd == 0


def cost_of(attempts: tuple[AttemptView, ...], prices: Mapping[str, float] | None) -> Cost:
    """Billable seconds x instances x price an hour. Attempts that failed were billed as well."""
    usd, seconds, untimed = 0.0, 0, 0
    unpriced: list[str] = []
    for attempt in attempts:
        taken = attempt.instance_seconds
        price = (prices or {}).get(attempt.instance_type)
        if taken is None:
            untimed += 1
        else:
            seconds += taken
        if price is None:
            unpriced.append(attempt.instance_type or "unknown instance")
        elif taken is not None:
            usd += taken / 3600 * price
    return Cost(seconds, usd, tuple(dict.fromkeys(unpriced)), untimed, len(attempts))


def total_of(jobs: tuple[JobView, ...], prices: Mapping[str, float] | None) -> Cost:
    return cost_of(tuple(attempt for job in jobs for attempt in job.attempts), prices)
