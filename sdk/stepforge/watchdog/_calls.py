"""The guarded call that runs here, and what the guarded function may ask and say."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from stepforge.errors import BudgetExceeded, HeartbeatMissed, WatchdogError
from stepforge.watchdog._clock import Clock
from stepforge.watchdog._events import Kind, Listener, tell

current: ContextVar[Call | None] = ContextVar("stepforge_watchdog_call", default=None)
_telling = threading.Lock()


class Call:
    """One guarded call, all its attempts included. Times are those of its clock."""

    __slots__ = (
        "attempt", "beaten", "budget", "clock", "deadline", "heartbeat", "listener", "name", "on_beat", "own", "parent",
        "permitted", "raises", "started", "told",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        budget: float | None,
        heartbeat: float | None,
        raises: bool,
        listener: Listener | None,
    ) -> None:
        self.name, self.clock, self.listener = name, clock, listener
        self.parent = current.get()
        self.started = clock.monotonic()
        self.budget = math.inf if budget is None else budget
        left = self.parent.left() if self.parent is not None else math.inf
        self.own = self.budget <= left
        """Whether it has the whole of its own budget: what an outer one cuts short is no fault of what is called."""
        self.deadline = self.started + min(self.budget, left)
        self.heartbeat, self.raises = heartbeat, raises
        self.beaten = self.started
        self.on_beat: Callable[[], None] | None = None
        self.attempt = 0
        self.permitted: Any = None
        """The breaker that let the attempt through which is under way."""
        self.told: set[Kind] = set()

    def left(self) -> float:
        return self.deadline - self.clock.monotonic()

    def due(self) -> float:
        """When it is to be ended if nothing is heard of it: its deadline, or the end of a beat before that."""
        if self.heartbeat is None or not self.raises:
            return self.deadline
        return min(self.deadline, self.beaten + self.heartbeat)

    def begin_attempt(self) -> None:
        self.attempt += 1
        self.beaten = self.clock.monotonic()
        self.told.discard(Kind.BEAT_MISSED)

    def beat(self) -> None:
        now = self.clock.monotonic()
        if now >= self.deadline:
            raise self.lapsed(now)
        if self.heartbeat is not None and now - self.beaten > self.heartbeat:
            self.tell_once(Kind.BEAT_MISSED, self._silence(now))
            if self.raises:
                raise self.lapsed(now)
        self.beaten = now
        self.told.discard(Kind.BEAT_MISSED)
        if self.on_beat is not None:
            self.on_beat()

    def lapsed(self, now: float | None = None) -> WatchdogError:
        """The error that ends it, which is also told."""
        now = self.clock.monotonic() if now is None else now
        if now < self.deadline:
            self.tell_once(Kind.BEAT_MISSED, self._silence(now))
            return HeartbeatMissed(f"{self.name!r} was ended: {self._silence(now)}")
        self.tell_once(Kind.LATE, f"over {self._limit()}")
        return BudgetExceeded(
            f"{self.name!r} was ended {now - self.started:.3g} s after it began: over {self._limit()}"
        )

    def late(self) -> bool:
        """Whether its time is over; the first time that it is, that is told."""
        if self.clock.monotonic() < self.deadline:
            return False
        self.tell_once(Kind.LATE, f"over {self._limit()}")
        return True

    def look(self, now: float) -> None:
        """What the monitor does while the call runs in the thread of who called it."""
        if now >= self.deadline:
            self.tell_once(Kind.LATE, f"over {self._limit()}, and still running")
        elif self.heartbeat is not None and now - self.beaten > self.heartbeat:
            self.tell_once(Kind.BEAT_MISSED, self._silence(now))

    def tell(self, kind: Kind, detail: str = "") -> None:
        seconds = self.clock.monotonic() - self.started
        tell(kind, self.name, detail, attempt=self.attempt, seconds=seconds, listener=self.listener)

    def tell_once(self, kind: Kind, detail: str) -> None:
        with _telling:
            first = kind not in self.told
            self.told.add(kind)
        if first:
            self.tell(kind, detail)

    def _silence(self, now: float) -> str:
        return f"no beat for {now - self.beaten:.3g} s, where one is due every {self.heartbeat:g} s"

    def _limit(self) -> str:
        if self.own or self.parent is None:
            return f"its budget of {self.budget:g} s"
        return f"the {self.deadline - self.started:.3g} s that {self.parent.name!r} around it had left"


def beat() -> None:
    """A sign of life of the guarded call that this runs in, and of those around it. Outside of one, nothing.

    Raises BudgetExceeded where the time of one is over and HeartbeatMissed where this beat comes too late, so that a
    function in a thread, which nothing can interrupt, ends here.
    """
    call = current.get()
    while call is not None:
        call.beat()
        call = call.parent


def remaining_seconds() -> float:
    """What is left of the budget of the guarded call that this runs in, outer ones included; infinite outside of one.

    To be passed on to what can end by itself: a socket's timeout, the `timeout` of a subprocess. Never below 0.
    """
    call = current.get()
    return math.inf if call is None else max(0.0, call.left())
