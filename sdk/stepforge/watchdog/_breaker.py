"""A circuit breaker: after a number of failures in a row nothing is called for a while, then one call is let through
to find out (M. Nygard, Release It!, 2007). Its state lies in this process, or in Redis for many (`_redis.py`).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from stepforge.errors import InvalidInput, UserError
from stepforge.watchdog._budgets import NAME, is_number
from stepforge.watchdog._clock import SYSTEM, Clock

Status = Literal["closed", "open"]
Verdict = Literal["success", "failure", "neutral"]
"""`neutral`: cancelled, or cut short by somebody else; says nothing about what was called."""


class Change(StrEnum):
    NONE = "none"
    OPENED = "opened"
    CLOSED = "closed"


@dataclass(frozen=True)
class Rules:
    """What a state has to know of a breaker."""

    name: str
    failures: int
    open_seconds: float
    probe_seconds: float


class Permit(NamedTuple):
    """Leave to call once. What is reported under a permit of an earlier generation changes nothing."""

    generation: int
    probe: str | None = None
    """The name of the one call that may go through an open circuit."""


class Answer(NamedTuple):
    permit: Permit | None
    """None: the circuit is open."""
    again_seconds: float = 0.0
    """How long until a call is let through."""


class BreakerState(Protocol):
    """Where breakers keep what they know. Neither call raises, nor waits for longer than a fraction of a second."""

    waits: bool
    """Whether a call waits for a network: then it has no place on an event loop."""

    def ask(self, rules: Rules) -> Answer: ...

    def report(self, rules: Rules, permit: Permit, verdict: Verdict) -> Change: ...

    def status(self, rules: Rules) -> Status: ...


@dataclass
class _Circuit:
    generation: int = 0
    open: bool = False
    failures: int = 0
    until: float = 0.0
    probe: str | None = None
    probe_until: float = 0.0


@dataclass
class MemoryState:
    """Of one process; many threads and tasks may share it."""

    clock: Clock = SYSTEM
    waits: bool = field(default=False, init=False)
    _circuits: dict[str, _Circuit] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def ask(self, rules: Rules) -> Answer:
        with self._lock:
            circuit = self._circuit(rules)
            if not circuit.open:
                return Answer(Permit(circuit.generation))
            now = self.clock.monotonic()
            if now < circuit.until:
                return Answer(None, circuit.until - now)
            if circuit.probe is not None and now < circuit.probe_until:
                return Answer(None, circuit.probe_until - now)
            circuit.probe, circuit.probe_until = uuid.uuid4().hex, now + rules.probe_seconds
            return Answer(Permit(circuit.generation, circuit.probe))

    def report(self, rules: Rules, permit: Permit, verdict: Verdict) -> Change:
        with self._lock:
            circuit = self._circuit(rules)
            if permit.generation != circuit.generation or permit.probe != circuit.probe:
                return Change.NONE
            if not circuit.open:
                if verdict == "success":
                    circuit.failures = 0
                elif verdict == "failure":
                    circuit.failures += 1
                    if circuit.failures >= rules.failures:
                        return self._turn(circuit, rules, open=True)
                return Change.NONE
            if verdict == "neutral":
                circuit.probe = None
                return Change.NONE
            return self._turn(circuit, rules, open=verdict == "failure")

    def status(self, rules: Rules) -> Status:
        with self._lock:
            return "open" if self._circuit(rules).open else "closed"

    def mirror(self, rules: Rules, *, generation: int, open: bool, failures: int, seconds: float) -> None:
        """Take over what another state says, to go on from there when it is gone. `seconds`: how long it stays open."""
        with self._lock:
            circuit = self._circuit(rules)
            circuit.generation, circuit.open, circuit.failures = generation, open, failures
            circuit.until = self.clock.monotonic() + seconds
            circuit.probe = None

    def _circuit(self, rules: Rules) -> _Circuit:
        return self._circuits.setdefault(rules.name, _Circuit())

    def _turn(self, circuit: _Circuit, rules: Rules, *, open: bool) -> Change:
        circuit.generation += 1
        circuit.open, circuit.failures, circuit.probe = open, 0, None
        circuit.until = self.clock.monotonic() + rules.open_seconds if open else 0.0
        return Change.OPENED if open else Change.CLOSED


def fault_of_callee(error: Exception) -> bool:
    """What counts as a failure where nothing else is said: all but the caller's own mistakes."""
    return not isinstance(error, UserError)


class Breaker:
    """One circuit. Watchdogs that call the same thing share one; processes share it through a `RedisState`.

    >>> breaker = Breaker("mlflow", failures=5, open_seconds=30)
    >>> breaker.status
    'closed'

    failures: how many in a row open it. open_seconds: how long it stays so. probe_seconds: how long the one call that
    is let through then may take before another one is, because its process may have died. counts: which exceptions are
    failures; the others say that what is called works. state: None is Redis where STEPFORGE_REDIS_URL names one, and
    otherwise this process. Raises InvalidInput.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        open_seconds: float = 30.0,
        probe_seconds: float = 60.0,
        counts: Callable[[Exception], bool] = fault_of_callee,
        state: BreakerState | None = None,
    ) -> None:
        if not NAME.fullmatch(name):
            raise InvalidInput(f"breaker {name!r} is no name: use small letters, digits and hyphens, such as 'mlflow'")
        numbers = type(failures) is int and is_number(open_seconds) and is_number(probe_seconds)
        if not numbers or failures < 1 or open_seconds < 0 or probe_seconds <= 0:
            raise InvalidInput(
                f"breaker {name!r}: failures {failures!r} must be a whole number, 1 or more, open_seconds "
                f"{open_seconds!r} at least 0, probe_seconds {probe_seconds!r} above 0"
            )
        self.rules = Rules(name, failures, open_seconds, probe_seconds)
        self.counts = counts
        self._state = state
        self._choosing = threading.Lock()

    @property
    def name(self) -> str:
        return self.rules.name

    @property
    def state(self) -> BreakerState:
        if self._state is None:
            from stepforge.watchdog._redis import state_of_environment

            with self._choosing:
                self._state = self._state or state_of_environment() or MemoryState()
        return self._state

    @property
    def status(self) -> Status:
        """As the state says; an open circuit whose time is over stays `open` until a call went through."""
        return self.state.status(self.rules)
