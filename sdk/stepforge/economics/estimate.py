"""How long a job will run and what it will cost, from earlier attempts where there are any. Pure.

Earlier attempts are of the same kind on four levels: the very same work from the same model on the same instances; the
same stage of the domain with more or less of it; the same type of job on the same instance; and where there is none, a
guess. Each level has a wider range, and the estimate says which it is from. No range is wider than the job's own limit.

Not covered: volumes, storage, requests, warm pools between jobs, and data that leaves a region.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from stepforge.contracts.base import digest
from stepforge.contracts.economics import LedgerEntry, Price
from stepforge.contracts.jobs import ArtifactRef, JobSpec, Resources
from stepforge.contracts.work import (
    DatasetWork,
    EvaluateWork,
    GateWork,
    RlvrWork,
    ScratchModel,
    SftWork,
    SrlWork,
    Work,
    WorkType,
)

Source = Literal["same work", "same stage", "same type", "guess"]
NEWEST = 20
"""Most earlier attempts that an estimate is from: code and containers change."""

_MARGIN: dict[Source, tuple[float, float]] = {
    "same work": (0.9, 1.1),
    "same stage": (0.67, 1.5),
    "same type": (0.33, 3.0),
    "guess": (0.1, 10.0),
}
"""What the fastest is multiplied with for the lower end of the range, and the slowest for the upper end."""
_STARTING = 60.0
"""Seconds of a job that do not grow with its work: download, import, upload."""
_GUESS: dict[WorkType, float] = {
    "dataset": 2e-3,
    "gate": 5e-3,
    "sft": 2e-3,
    "srl": 1e-3,
    "rlvr": 1e-3,
    "evaluate": 2e-1,
}
"""Seconds a unit of work, with nothing known: of a small model on a small machine, hence the range of ten each way."""
_SPOT_SHARES = (0.1, 0.5, 1.0)
"""Low, middle and high share of the training time that spot bills, with nothing known: AWS names savings up to 90 %."""


def units(work: Work) -> float:
    """How much work a job does: records, or sequences that are trained on, or tokens that are sampled at most."""
    match work:
        case DatasetWork():
            return (work.corpus + work.train + work.rl + 3 * work.test) / (work.part.of if work.part else 1)
        case GateWork():
            return float(work.sample)
        case SftWork():
            return float(work.steps * work.batch_size)
        case SrlWork() | RlvrWork():
            return float(work.steps * work.batch_prompts * work.group_size * work.max_new_tokens)
        case EvaluateWork():
            return float((work.samples + 1) * work.max_new_tokens)


def work_digest(work: Work) -> str:
    """Digest of the work without what does not change how long it takes: its seed."""
    return digest(work.model_dump(mode="json", exclude={"seed"}))


def model_of(spec: JobSpec) -> str:
    """Where the weights of a job begin, as far as its own spec says: a size, or the digest of a model."""
    if isinstance(spec.model, ScratchModel):
        return scratch_name(spec.model)
    start = spec.inputs.get("model")
    return model_name(start) if start is not None else ""


def model_name(artifact: ArtifactRef) -> str:
    return f"model-{artifact.sha256[:12]}"


def scratch_name(model: ScratchModel) -> str:
    return f"scratch-{model.hidden_size}x{model.layers}-{model.context}"


@dataclass(frozen=True)
class Wanted:
    """A job that may not have an identity yet: what its duration depends on."""

    domain: str
    stage: str
    work: Work
    model: str
    resources: Resources


@dataclass(frozen=True)
class Range:
    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.middle * factor, self.high * factor)

    def plus(self, other: Range) -> Range:
        return Range(self.low + other.low, self.middle + other.middle, self.high + other.high)


@dataclass(frozen=True)
class Estimate:
    """What a job will take. `usd` is None where its instance has no price, never zero."""

    seconds: Range
    """On the clock, of each instance."""
    source: Source
    attempts: int
    """How many earlier ones it is from."""
    usd: Range | None
    usd_per_hour: float | None
    price_as_of: date | None


def estimate(wanted: Wanted, history: Iterable[LedgerEntry], price: Price | None) -> Estimate:
    """Time and cost of one job by the Completed attempts of `history`."""
    resources = wanted.resources
    level, seconds, used = _time(wanted, [entry for entry in history if _usable(entry, wanted)])
    limit = float(resources.max_runtime_seconds)
    seconds = Range(min(seconds.low, limit), min(seconds.middle, limit), min(seconds.high, limit))
    billed = seconds
    if resources.spot:
        low, middle, high = _spot_shares(used)
        billed = Range(seconds.low * low, seconds.middle * middle, seconds.high * high)
    usd = None if price is None else billed.times(resources.instance_count * price.usd_per_hour / 3600)
    return Estimate(
        seconds,
        level,
        len(used),
        usd,
        None if price is None else price.usd_per_hour,
        None if price is None else price.as_of,
    )


def widest(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate of a job that takes one of several instances: the first one's, its range wide enough for each.

    No dollars where one of them has no price.
    """
    first = estimates[0]
    seconds = _around(first.seconds, [one.seconds for one in estimates])
    dollars = [one.usd for one in estimates if one.usd is not None]
    known = first.usd is not None and len(dollars) == len(estimates)
    return replace(first, seconds=seconds, usd=_around(dollars[0], dollars) if known else None)


def _around(first: Range, ranges: Sequence[Range]) -> Range:
    return Range(min(one.low for one in ranges), first.middle, max(one.high for one in ranges))


def enough(wanted: Iterable[Wanted]) -> Callable[[Sequence[LedgerEntry]], bool]:
    """Whether entries of one type hold all that estimates of these jobs look at: 20 attempts at the very same work."""
    by_type: dict[str, list[Wanted]] = {}
    for one in wanted:
        by_type.setdefault(one.work.type, []).append(one)

    def is_enough(entries: Sequence[LedgerEntry]) -> bool:
        jobs = by_type.get(entries[0].type, []) if entries else []
        return bool(entries) and all(sum(_same(e, job) for e in entries if _usable(e, job)) >= NEWEST for job in jobs)

    return is_enough


def _usable(entry: LedgerEntry, wanted: Wanted) -> bool:
    """Of attempts that failed nobody knows how long they would have run."""
    same_machine = (entry.instance_type, entry.instance_count) == (
        wanted.resources.instance_type,
        wanted.resources.instance_count,
    )
    return entry.succeeded and entry.type == wanted.work.type and same_machine and bool(_seconds(entry))


def _seconds(entry: LedgerEntry) -> float:
    """Time on the clock: what spot interrupted is billed less, not done sooner."""
    return float(entry.training_seconds or entry.billable_seconds or 0)


def _same_stage(entry: LedgerEntry, wanted: Wanted) -> bool:
    return (entry.domain, entry.stage, entry.model) == (wanted.domain, wanted.stage, wanted.model)


def _same(entry: LedgerEntry, wanted: Wanted) -> bool:
    """Whether it did the very same work from the same model."""
    return _same_stage(entry, wanted) and entry.work_sha256 == work_digest(wanted.work)


def _time(wanted: Wanted, usable: Sequence[LedgerEntry]) -> tuple[Source, Range, list[LedgerEntry]]:
    stage = [entry for entry in usable if _same_stage(entry, wanted)]
    same = [entry for entry in stage if _same(entry, wanted)]
    amount = units(wanted.work)
    levels: tuple[tuple[Source, list[LedgerEntry]], ...] = (
        ("same work", same),
        ("same stage", stage),
        ("same type", list(usable)),
    )
    for level, found in levels:
        newest = sorted(found, key=lambda entry: entry.ended)[-NEWEST:]
        if newest:
            times = [_scaled(entry, amount) for entry in newest]
            low, high = _MARGIN[level]
            return level, Range(min(times) * low, statistics.median(times), max(times) * high), newest
    low, high = _MARGIN["guess"]
    middle = _STARTING + amount * _GUESS[wanted.work.type]
    return "guess", Range(middle * low, middle, middle * high), []


def _scaled(entry: LedgerEntry, amount: float) -> float:
    """The time of an earlier attempt for another amount of work: what does not grow with it stays as it is."""
    seconds = _seconds(entry)
    if not entry.units or entry.units == amount:
        return seconds
    starting = min(_STARTING, seconds / 2)
    return starting + (seconds - starting) * amount / entry.units


def _spot_shares(used: Sequence[LedgerEntry]) -> tuple[float, float, float]:
    """Share of the time that is billed on spot. The upper end is always all of it: savings are not promised."""
    shares = [1 - entry.spot_saving for entry in used if entry.spot_saving is not None]
    if not shares:
        return _SPOT_SHARES
    return min(shares), statistics.median(shares), 1.0


def total(estimates: Iterable[Estimate]) -> tuple[Range, Range | None]:
    """Seconds one after the other, and dollars; no dollars where one of them has no price."""
    seconds, usd = Range(0.0, 0.0, 0.0), Range(0.0, 0.0, 0.0)
    known = True
    for one in estimates:
        seconds = seconds.plus(one.seconds)
        if one.usd is None:
            known = False
        else:
            usd = usd.plus(one.usd)
    return seconds, usd if known else None
