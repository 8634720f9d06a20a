"""What comes next in a guarded call. Nothing waits here: the drivers, one for functions and one for coroutines, do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stepforge.errors import CircuitOpen
from stepforge.watchdog._breaker import Answer, Breaker, Change, Permit, Verdict
from stepforge.watchdog._budgets import budget_of
from stepforge.watchdog._calls import Call
from stepforge.watchdog._clock import Clock
from stepforge.watchdog._events import Kind, Listener
from stepforge.watchdog._retries import Retries
from stepforge.watchdog._workers import Workers

Outcome = tuple[Exception | None, Any]
_UNREAD = object()


class Do(Enum):
    ASK = "ask"
    RUN = "run"
    REPORT = "report"
    PAUSE = "pause"


@dataclass
class Guard:
    """What is the same in all calls of one guarded function."""

    name: str
    default_budget: float | None
    heartbeat: float | None
    raises: bool
    retries: Retries | None
    breaker: Breaker | None
    listener: Listener | None
    clock: Clock
    workers: Workers | None
    _budget: Any = _UNREAD

    def open(self) -> Call:
        """Raises InvalidInput for a malformed budget, BudgetExceeded where one around it has nothing left."""
        if self._budget is _UNREAD:
            self._budget = budget_of(self.name, self.default_budget)
        call = Call(
            self.name,
            clock=self.clock,
            budget=self._budget,
            heartbeat=self.heartbeat,
            raises=self.raises,
            listener=self.listener,
        )
        if call.parent is not None and call.deadline <= call.started:
            raise call.lapsed(call.started)
        call.tell(Kind.STARTED)
        return call

    def breaker_for(self, call: Call) -> Breaker | None:
        """The breaker to ask; None within a call that it has let through, which is one call with it."""
        outer = call.parent
        while outer is not None and self.breaker is not None:
            if outer.permitted is self.breaker:
                return None
            outer = outer.parent
        return self.breaker


def plan_of(guard: Guard, call: Call, release: Callable[[Permit], object]) -> Generator[tuple[Do, Any], Any, Outcome]:
    """What to do next; it is sent what came of it, and returns what the guarded function raised or returned.

    What is no Exception (KeyboardInterrupt, a cancellation) is thrown into it, and passes through.
    """
    breaker, retries = guard.breaker_for(call), guard.retries
    outcome: Outcome | None = None
    while True:
        permit: Permit | None = None
        if breaker is not None:
            answer: Answer = yield Do.ASK, breaker
            permit = answer.permit
            if permit is None:
                # Opened by an attempt of this very call: what went wrong says more than that the circuit is open.
                return outcome or (_refusal(guard.name, breaker, answer), None)
            call.permitted = breaker
            if permit.probe is not None:
                call.tell(Kind.PROBED, f"breaker {breaker.name!r} lets this one call through")
        try:
            call.begin_attempt()
            outcome = yield Do.RUN, None
            error = outcome[0]
            late = call.late() or Kind.LATE in call.told
            verdict = _verdict(call, breaker, error, late)
        except BaseException:
            if permit is not None:
                release(permit)
            raise
        if breaker is not None:
            change: Change = yield Do.REPORT, (breaker, permit, verdict)
            call.permitted = None
            if change is Change.OPENED:
                said = f"breaker {breaker.name!r} for {breaker.rules.open_seconds:g} s: {_brief(error)}"
                call.tell(Kind.OPENED, said)
            elif change is Change.CLOSED:
                call.tell(Kind.CLOSED, f"breaker {breaker.name!r}")
        if error is None or retries is None or late or call.attempt >= retries.attempts or not retries.when(error):
            return outcome
        pause = retries.pause_seconds(call.attempt)
        if pause >= call.left():
            return outcome
        call.tell(
            Kind.RETRIED, f"in {pause:.3g} s, after attempt {call.attempt} of {retries.attempts}: {_brief(error)}"
        )
        yield Do.PAUSE, pause


def _verdict(call: Call, breaker: Breaker | None, error: Exception | None, late: bool) -> Verdict:
    if breaker is None:
        return "neutral"
    if late:
        return "failure" if call.own else "neutral"
    return "failure" if error is not None and breaker.counts(error) else "success"


def _refusal(name: str, breaker: Breaker, answer: Answer) -> CircuitOpen:
    return CircuitOpen(
        f"{name!r} is not called: breaker {breaker.name!r} is open after {breaker.rules.failures} failures in a row, "
        f"and lets a call through in about {answer.again_seconds:.3g} s",
        again_seconds=answer.again_seconds,
    )


def _brief(error: Exception | None) -> str:
    if error is None:
        return "a call that took too long"
    text = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
