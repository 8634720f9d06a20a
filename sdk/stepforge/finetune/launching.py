"""Launch exactly once: the ledger before the call, the provider's own list before any second call.

`launch` may be called again at any time, by any process, after any crash: it adopts what is there. Where a provider has
no idempotency token, a lost answer is waited out for `remembers_seconds` before it is sent again, because a job may
appear in the list after the connection ended. What is left: a process that is frozen between the last line in the
ledger and the call itself, for longer than its lease and that wait, and then goes on.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from stepforge.contracts.base import Contract
from stepforge.economics.catalogue import Catalogue, ModelPrice
from stepforge.errors import (
    IntegrityError,
    InvalidInput,
    LaunchUncertain,
    ModelGone,
    ProviderRefused,
    ProviderUnavailable,
    Throttled,
)
from stepforge.finetune.entries import Budgets, Entry, Stage
from stepforge.finetune.job import Estimate, Job, Prepared
from stepforge.finetune.ledger import Ledger
from stepforge.finetune.provider import Provider
from stepforge.finetune.spec import TuneSpec, launch_key

LOCAL = "local"
LEASE_SECONDS = 900.0
Sleep = Callable[[float], None]
T = TypeVar("T")


class Launch(Contract):
    """Where a launch stands. `needs approval` and `sending` are no failures: decide, or look again later."""

    key: str
    stage: Stage
    entry: Entry
    job: Job | None = None
    estimate: Estimate | None = None

    @property
    def words(self) -> str:
        fake = " [local fake: nothing is trained or charged]" if self.entry.local_fake else ""
        what = f"job {self.entry.job_id}" if self.entry.job_id else f"up to {self.entry.estimate_usd:,.2f} USD"
        return f"{self.key}: {self.stage.value}, {what}{fake}"


def launch(
    provider: Provider,
    spec: TuneSpec,
    folder: Path,
    *,
    ledger: Ledger,
    budgets: Budgets,
    price: ModelPrice,
    hours: tuple[Decimal, Decimal] | None = None,
    shutdown: date | None = None,
    needed_until: date | None = None,
    catalogue: Catalogue | None = None,
    tries: int = 6,
    sleep: Sleep = time.sleep,
    owner: str | None = None,
) -> Launch:
    """Launch a fine-tune, or adopt the one that was launched with the same spec.

    `folder` holds the data (`DatasetFile.filename`), `price` is that of training, `shutdown` the day when the base
    model ends and `needed_until` the day until which the tuned one is needed; `catalogue` says who may teach whom, the
    one that ships where it is left out.
    Raises OverBudget, ModelGone, InvalidInput before anything is sent; ProviderRefused where the provider said no;
    Throttled where it never took the request; LaunchUncertain where it is not known yet what it did.
    """
    check(provider, spec, shutdown=shutdown, needed_until=needed_until, catalogue=catalogue)
    expected = provider.estimate(spec, price, hours=hours)
    key = launch_key(spec, provider.target)
    entry = ledger.reserve(key, spec, provider.target, expected, budgets)
    if entry.stage == Stage.NEEDS_APPROVAL or entry.stage.sent:
        return Launch(key=key, stage=entry.stage, entry=entry, estimate=expected)
    prepared = _patiently(lambda: provider.prepare(spec, folder), tries=tries, sleep=sleep)
    sender = _Sender(provider, spec, prepared, ledger, key, owner or _owner(), tries, sleep)
    job = sender.send()
    return Launch(key=key, stage=(found := ledger.entry(key)).stage, entry=found, job=job, estimate=expected)


def check(
    provider: Provider,
    spec: TuneSpec,
    *,
    shutdown: date | None = None,
    needed_until: date | None = None,
    catalogue: Catalogue | None = None,
) -> None:
    """Everything that can be refused without asking the provider."""
    if spec.provider != provider.name:
        raise InvalidInput(f"the spec is for {spec.provider!r}, but the provider is {provider.name!r}")
    if (spec.environment == LOCAL) != provider.local:
        raise InvalidInput(
            f"environment {spec.environment!r} and provider {provider.target!r} do not go together: environment "
            f"{LOCAL!r} uses a local server, and no other environment does"
        )
    if shutdown is not None and needed_until is not None and shutdown <= needed_until:
        raise ModelGone(
            f"{spec.base_model!r} shuts down on {shutdown}, and the tuned model is needed until {needed_until}: choose "
            "a base model that lasts longer"
        )
    if spec.teacher is not None:
        student = f"{spec.provider}/{spec.base_model}"
        (Catalogue.load() if catalogue is None else catalogue).pair(student, spec.teacher.model)
    provider.validate(spec)


class _Sender:
    """One process's turn at sending one launch."""

    def __init__(
        self,
        provider: Provider,
        spec: TuneSpec,
        prepared: Prepared,
        ledger: Ledger,
        key: str,
        owner: str,
        tries: int,
        sleep: Sleep,
    ) -> None:
        self.provider, self.spec, self.prepared, self.ledger = provider, spec, prepared, ledger
        self.key, self.owner, self.tries, self.sleep = key, owner, tries, sleep
        self.lease = LEASE_SECONDS + provider.remembers_seconds

    def send(self) -> Job | None:
        """None where another process is sending, or has sent."""
        for attempt in range(self.tries):
            turn = self.ledger.claim(self.key, self.owner, self.lease)
            if turn in ("busy", "done"):
                return None
            if turn == "reconcile":
                self._wait_out()
            # The ledger may be new, or another machine's may have sent it: the provider is asked before each call.
            found = _patiently(self._find, tries=self.tries, sleep=self.sleep)
            if found is not None:
                return self._adopt(found)
            self.ledger.sending(self.key, self.owner, self.lease)
            try:
                return self._adopt(self.provider.launch(self.spec, self.prepared, key=self.key))
            except Throttled as error:
                self.ledger.not_sent(self.key, self.owner, str(error))
                if attempt + 1 == self.tries:
                    raise
                self.sleep(_pause(attempt))
            except ProviderRefused as error:
                self.ledger.refused(self.key, self.owner, str(error))
                raise
            except ProviderUnavailable:
                continue  # the entry stays as sent: the next turn waits, and looks before it sends again
        raise LaunchUncertain(
            f"launch {self.key}: {self.tries} tries had no answer that can be read. Launch it again later: it is "
            "looked for before it is sent again"
        )

    def _wait_out(self) -> None:
        """Until a job of the last call must be visible, if there is one."""
        sent_at = self.ledger.entry(self.key).sent_at
        assert sent_at is not None
        left = sent_at.timestamp() + self.provider.remembers_seconds - self.ledger.clock()
        pause = 2.0
        while left > 0:
            pause = min(left, 2 * pause, 30.0)
            self.sleep(pause)
            left -= pause
            if _patiently(self._find, tries=self.tries, sleep=self.sleep) is not None:
                return

    def _find(self) -> Job | None:
        return self.provider.find(self.key, self.prepared)

    def _adopt(self, job: Job) -> Job:
        if job.local_fake != (self.spec.environment == LOCAL):
            raise IntegrityError(
                f"job {job.id} of environment {self.spec.environment!r} "
                + ("comes from a local fake" if job.local_fake else "does not come from a local fake")
                + f": look at what answers at {self.provider.target}"
            )
        self.ledger.record(self.key, job)
        return job


def _patiently(call: Callable[[], T], *, tries: int, sleep: Sleep) -> T:
    """Repeat what changes nothing, or nothing twice."""
    for attempt in range(tries):
        try:
            return call()
        except (Throttled, ProviderUnavailable):
            if attempt + 1 == tries:
                raise
            sleep(_pause(attempt))
    raise AssertionError("unreachable")


def _pause(attempt: int) -> float:
    """Seconds: full jitter below 2, 4, ... 60."""
    return random.uniform(0.1, min(60.0, 2.0 ** (attempt + 1)))


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}:{time.monotonic_ns()}"
