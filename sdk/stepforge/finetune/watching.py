"""Following a job until it ends: hours or days, through outages, without a hurry."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

from stepforge.economics.bills import cents
from stepforge.economics.catalogue import ModelPrice
from stepforge.errors import InvalidInput, ProviderUnavailable, StepforgeError, Throttled
from stepforge.finetune.entries import Entry, Stage
from stepforge.finetune.job import Job
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.provider import Provider

logger = logging.getLogger(__name__)
DAY = 86_400.0


class StillRunning(StepforgeError):
    """Not a failure: the job goes on, and so does its charge. Watch it again."""

    exit_code = 4


def watch(
    provider: Provider,
    job_id: str,
    *,
    first_seconds: float = 5,
    most_seconds: float = 600,
    deadline_seconds: float = 14 * DAY,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Job]:
    """The job each time its state changes, the last time when it has ended.

    Waits half as long again after each look, up to `most_seconds`, with jitter of a fifth. A provider that cannot be
    asked is asked again; one that says that there is no such job ends the watch. Raises StillRunning at the deadline.
    """
    began, pause, seen = clock(), first_seconds, ""
    silent_since: float | None = None
    while True:
        try:
            job = provider.status(job_id)
        except (Throttled, ProviderUnavailable) as error:
            if silent_since is None:
                silent_since = clock()
                logger.warning("a provider cannot be asked: job=%s error=%s", job_id, type(error).__name__)
        else:
            silent_since = None
            if job.raw_state != seen:
                seen = job.raw_state
                yield job
            if job.state.terminal:
                return
        if clock() - began >= deadline_seconds:
            raise StillRunning(
                f"job {job_id} is {seen or 'not known to be anything'!r} after {deadline_seconds / DAY:.1f} days: it "
                "goes on, and is charged. Watch it again, or cancel it"
            )
        sleep(pause * random.uniform(0.8, 1.2))
        pause = min(pause * 1.5, most_seconds)


def follow(
    provider: Provider, ledger: Ledger, key: str, *, price: ModelPrice | None = None, **timing: object
) -> Iterator[Entry]:
    """Watch a launch and keep the ledger's entry up to date; the cost is booked when it ends.

    `price` books what was billed, where the provider says how many tokens that were. Raises InvalidInput where the
    launch was never sent.
    """
    entry = ledger.entry(key)
    if entry.job_id is None:
        raise InvalidInput(f"launch {key} is {entry.stage.value!r}: there is no job to watch. Launch it first")
    if entry.stage != Stage.LAUNCHED:
        yield entry
        return
    _same_account(provider, entry)
    for job in watch(provider, entry.job_id, **timing):  # type: ignore[arg-type]
        yield ledger.record(key, job, actual_usd=billed(job, price))


def billed(job: Job, price: ModelPrice | None) -> Decimal | None:
    """What an ended job cost: billed tokens times the price. None where that is not known: then the estimate stands.

    >>> from datetime import date
    >>> job = Job(provider="openai", id="j", state=State.SUCCEEDED, raw_state="succeeded", billable_tokens=200_000)
    >>> given = {"usd": 5, "unit": "1M tokens", "as_of": date(2026, 11, 1), "source": "price page"}
    >>> billed(job, ModelPrice(kind="training_tokens", **given))
    Decimal('1.00')
    """
    if job.state.terminal and job.cost_usd is not None:
        return cents(job.cost_usd)
    if price is None or not job.state.terminal or job.billable_tokens is None or price.kind != "training_tokens":
        return None
    if price.teacher is not None:
        return None  # tokens of the training say nothing of what the teacher said
    return cents(price.usd_each * job.billable_tokens)


def cancel(provider: Provider, ledger: Ledger, key: str) -> Entry:
    """Stop a launch wherever it stands: withdrawn before it was sent, stopped at the provider after.

    Raises LaunchUncertain where it may have been sent and its job is not known yet: launch it again first.
    """
    entry = ledger.entry(key)
    if entry.job_id is None:
        return ledger.withdraw(key, "cancelled before it was sent")
    if entry.stage != Stage.LAUNCHED:
        return entry
    _same_account(provider, entry)
    return ledger.record(key, provider.cancel(entry.job_id))


def _same_account(provider: Provider, entry: Entry) -> None:
    """Another account's job with this id is another's, and its end would be booked here."""
    if provider.target != entry.target:
        raise InvalidInput(
            f"launch {entry.key} is at {entry.target!r}, but this plan is for {provider.target!r}: give the plan that "
            "it was launched with"
        )
