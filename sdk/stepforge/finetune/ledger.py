"""The spend ledger: what was asked for, what was sent, what it costs. Written before money is spent.

The rules stand here, once; where entries are kept is the business of `ledger_file` (one machine) and of
`ledger_dynamodb` (one environment in the cloud).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, Literal, TypeVar

from stepforge.errors import IdentityConflict, InvalidInput, LaunchUncertain, OverBudget, UnknownName
from stepforge.finetune.entries import ENDS, Budgets, Entry, Line, Row, Stage, day_of, time_of
from stepforge.finetune.job import Estimate, Job
from stepforge.finetune.spec import TuneSpec

T = TypeVar("T")
Turn = Literal["claimed", "reconcile", "busy", "done"]
Spent = Callable[[str, str | None], Decimal]
"""From environment and day (None: ever) to what other launches have spent or promised."""


@dataclass(frozen=True)
class Step(Generic[T]):
    """What a rule makes of a row. Without a line nothing is written."""

    answer: T
    row: Row | None = None
    line: str = ""


Rule = Callable[[Row | None, Spent], Step[T]]


class Ledger(ABC):
    """The books of paid launches."""

    clock: Callable[[], float]

    # What a store does

    @abstractmethod
    def _change(self, key: str, rule: Rule[T]) -> T:
        """Apply a rule to the row of a key and write what it makes, as one transaction; its answer.

        The rule may be asked again with a newer row, so it changes nothing itself. What is written is durable when
        this returns.
        """

    @abstractmethod
    def _rows(self) -> Iterable[Row]: ...

    @abstractmethod
    def lines(self, key: str) -> tuple[Line, ...]: ...

    @abstractmethod
    def spent(self, environment: str, *, day: str | None = None) -> Decimal:
        """What is spent or promised, in US dollars: the actual cost where it is known, else the estimate's upper end.

        `day` is a date in UTC, `2026-11-22` say.
        """

    # Reading

    def entry(self, key: str) -> Entry:
        """Raises UnknownName."""
        return self._change(key, lambda row, _: Step(self._there(key, row).entry))

    def entries(self, environment: str | None = None) -> tuple[Entry, ...]:
        """All of them, or one environment's; the oldest first."""
        rows = sorted(self._rows(), key=lambda row: row.reserved_at)
        return tuple(row.entry for row in rows if environment in (None, row.environment))

    # Writing

    def reserve(self, key: str, spec: TuneSpec, target: str, estimate: Estimate, budgets: Budgets) -> Entry:
        """Set the money aside, or find what was done with this key before.

        What was not sent yet is set aside anew where it is dearer now, or where a person is to be asked now: who agreed
        to a lower amount did not agree to this one.
        Raises OverBudget before anything is written. A launch that was refused may be reserved again.
        """
        waits = estimate.high_usd > budgets.approval_usd
        new = Row(
            key=key,
            environment=spec.environment,
            provider=spec.provider,
            target=target,
            base_model=spec.base_model,
            method=spec.how,
            stage=Stage.NEEDS_APPROVAL if waits else Stage.RESERVED,
            estimate_usd=estimate.high_usd,
            low_usd=estimate.low_usd,
            expected_usd=estimate.expected_usd,
            reserved_at=time_of(self.clock()),
        )

        def rule(row: Row | None, spent: Spent) -> Step[Entry]:
            if row is not None and row.stage != Stage.REFUSED and not _anew(row, new):
                return Step(row.entry)
            self._hold(new, spent, budgets)
            return Step(new.entry, new, f"{estimate.low_usd} to {estimate.high_usd} USD")

        return self._change(key, rule)

    def approve(self, key: str, *, by: str, budgets: Budgets) -> Entry:
        """A person agrees to the cost. Raises OverBudget where the budgets no longer have room for it."""
        if not by.strip():
            raise InvalidInput("an approval needs the name of who approves: by='...'")

        def rule(found: Row | None, spent: Spent) -> Step[Entry]:
            row = self._there(key, found)
            if row.stage != Stage.NEEDS_APPROVAL:
                return Step(row.entry)
            now = time_of(self.clock())
            new = row.model_copy(update={"stage": Stage.RESERVED, "approved_by": by, "reserved_at": now})
            self._hold(new, spent, budgets)
            return Step(new.entry, new, f"approved by {by}")

        return self._change(key, rule)

    def withdraw(self, key: str, why: str) -> Entry:
        """Give up what was never sent. Raises LaunchUncertain where it may have been."""

        def rule(found: Row | None, _: Spent) -> Step[Entry]:
            row = self._there(key, found)
            if row.stage == Stage.SENDING and row.sent_at is not None:
                raise LaunchUncertain(f"launch {key} may have been sent: launch it again, then cancel it")
            # Who has claimed it and did not say that it sends finds in `sending` that the turn is gone.
            if row.stage not in (Stage.NEEDS_APPROVAL, Stage.RESERVED, Stage.SENDING):
                return Step(row.entry)
            new = row.model_copy(update={"stage": Stage.REFUSED, "note": why, "owner": None, "lease_until": None})
            return Step(new.entry, new, why)

        return self._change(key, rule)

    def claim(self, key: str, owner: str, lease_seconds: float) -> Turn:
        """Become the one who sends. `reconcile` says that somebody else may have sent before, and did not say so."""

        def rule(found: Row | None, _: Spent) -> Step[Turn]:
            row, now = self._there(key, found), self.clock()
            if row.stage == Stage.SENDING and row.owner != owner and (row.lease_until or 0) > now:
                return Step("busy")
            if row.stage not in (Stage.RESERVED, Stage.SENDING):
                return Step("done")
            update = {"stage": Stage.SENDING, "owner": owner, "lease_until": now + lease_seconds}
            new = row.model_copy(update=update)
            if row.sent_at is None:
                return Step("claimed", new, "claimed")
            return Step("reconcile", new, "taken over")

        return self._change(key, rule)

    def sending(self, key: str, owner: str, lease_seconds: float) -> None:
        """The last line before the call. Raises LaunchUncertain where someone else has taken over meanwhile."""

        def rule(found: Row | None, _: Spent) -> Step[None]:
            now = self.clock()
            update = {"sent_at": time_of(now), "lease_until": now + lease_seconds}
            return Step(None, self._mine(key, found, owner).model_copy(update=update), "about to send")

        self._change(key, rule)

    def not_sent(self, key: str, owner: str, why: str) -> None:
        """What was about to be sent certainly did not arrive: the money is set aside, and it may be tried again."""
        self._let_go(key, owner, {"stage": Stage.RESERVED}, why)

    def refused(self, key: str, owner: str, why: str) -> None:
        """The provider said no: nothing is charged, and the money is free again."""
        self._let_go(key, owner, {"stage": Stage.REFUSED, "note": why}, why)

    def record(self, key: str, job: Job, *, actual_usd: Decimal | None = None) -> Entry:
        """What the provider says about the job. Raises IdentityConflict where the launch has another job."""

        def rule(found: Row | None, _: Spent) -> Step[Entry]:
            row = self._there(key, found)
            if row.job_id not in (None, job.id):
                raise IdentityConflict(
                    f"launch {key} is job {row.job_id}, but the provider also has {job.id} with its key: cancel the "
                    "second one there, and find out who sent it"
                )
            if row.stage in ENDS.values() and not job.state.terminal:
                return Step(row.entry)  # an answer that was overtaken by that of the end
            told = {
                "stage": ENDS.get(job.state, Stage.LAUNCHED),
                "raw_state": job.raw_state,
                "actual_usd": row.actual_usd if actual_usd is None else actual_usd,
                "job_id": job.id,
                "note": job.error or row.note,
            }
            if all(getattr(row, name) == value for name, value in told.items()):
                return Step(row.entry)
            new = row.model_copy(update={**told, "model": job.model, "owner": None, "lease_until": None})
            return Step(new.entry, new, f"{job.id} {job.raw_state}")

        return self._change(key, rule)

    # Rules in common

    def _let_go(self, key: str, owner: str, update: dict[str, object], why: str) -> None:
        free = {"sent_at": None, "owner": None, "lease_until": None}

        def rule(found: Row | None, _: Spent) -> Step[None]:
            return Step(None, self._mine(key, found, owner).model_copy(update={**free, **update}), why)

        self._change(key, rule)

    def _there(self, key: str, row: Row | None) -> Row:
        if row is None:
            raise UnknownName("launch", key, (found.key for found in self._rows()))
        return row

    def _mine(self, key: str, found: Row | None, owner: str) -> Row:
        row = self._there(key, found)
        if row.stage != Stage.SENDING or row.owner != owner:
            raise LaunchUncertain(f"launch {key} was taken over by another process: launch it again to see its job")
        return row

    @staticmethod
    def _hold(row: Row, spent: Spent, budgets: Budgets) -> None:
        usd, day = row.estimate_usd, day_of(row.reserved_at)
        held = (
            ("job", Decimal(0), budgets.job_usd),
            (f"day {day} in {row.environment!r}", spent(row.environment, day), budgets.day_usd),
            (f"environment {row.environment!r}", spent(row.environment, None), budgets.environment_usd),
        )
        for what, already, most in held:
            if already + usd > most:
                words = f", after {_money(already)} that are spent or promised" if already else ""
                raise OverBudget(
                    f"this may cost {_money(usd)}{words}, but the budget of the {what} is {_money(most)}: nothing "
                    "was sent. Use fewer examples or epochs, or have the budget raised"
                )


def _anew(row: Row, new: Row) -> bool:
    """Whether what stands there says nothing about what is asked for now. Never of what may have been sent."""
    if row.stage not in (Stage.NEEDS_APPROVAL, Stage.RESERVED, Stage.SENDING) or row.sent_at is not None:
        return False
    unasked = row.stage != Stage.NEEDS_APPROVAL and row.approved_by is None and new.stage == Stage.NEEDS_APPROVAL
    return unasked or new.estimate_usd > row.estimate_usd


def _money(usd: Decimal) -> str:
    return f"{usd:,.2f} USD"
