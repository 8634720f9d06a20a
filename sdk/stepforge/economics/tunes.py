"""What paid tunes cost in an environment: what was estimated beside what was billed.

From the environment's spend ledger, and from this machine's for what was launched with it. A launch that both have is
one. What was never sent is left out: it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from stepforge.finetune.entries import Entry, Stage


@dataclass(frozen=True)
class TuneCosts:
    """Launches that were sent, the newest first."""

    entries: tuple[Entry, ...]

    @property
    def billed_usd(self) -> Decimal:
        """Of those whose bill is known. Local fakes cost nothing."""
        return sum((e.actual_usd for e in self._real if e.actual_usd is not None), Decimal(0))

    @property
    def unbilled_usd(self) -> Decimal:
        """The most that the others can have cost."""
        return sum((e.estimate_usd for e in self._real if e.actual_usd is None), Decimal(0))

    @property
    def _real(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.local_fake]


def tune_costs(*ledgers: Iterable[Entry], environment: str, since: date | None = None) -> TuneCosts:
    """Of the ledgers' entries, those of one environment that were sent `since` a day (UTC). Pure."""
    found: dict[str, Entry] = {}
    for entry in (entry for ledger in ledgers for entry in ledger):
        sent = entry.stage.sent or entry.stage == Stage.SENDING
        if not sent or entry.environment != environment or (since is not None and entry.reserved_at.date() < since):
            continue
        # The first that has it wins, but a bill wins over none.
        before = found.get(entry.key)
        if before is None or (before.actual_usd is None and entry.actual_usd is not None):
            found[entry.key] = entry
    return TuneCosts(tuple(sorted(found.values(), key=lambda entry: entry.reserved_at, reverse=True)))
