"""What watchdogs tell. Telling never waits and never raises: one thread takes events from a bounded queue to whoever
listens. What does not fit is dropped and counted, and the count is told as soon as there is room.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

logger = logging.getLogger("stepforge.watchdog")
MOST_WAITING = 1_000
IDLE_SECONDS = 30.0
_EXIT_SECONDS = 0.5


class Kind(StrEnum):
    STARTED = "started"
    LATE = "late"
    RETRIED = "retried"
    BEAT_MISSED = "beat_missed"
    OPENED = "opened"
    PROBED = "probed"
    CLOSED = "closed"
    STORE_LOST = "store_lost"
    STORE_BACK = "store_back"
    DROPPED = "dropped"


LEVELS: dict[Kind, int] = {
    Kind.STARTED: logging.DEBUG,
    Kind.LATE: logging.WARNING,
    Kind.RETRIED: logging.INFO,
    Kind.BEAT_MISSED: logging.WARNING,
    Kind.OPENED: logging.ERROR,
    Kind.PROBED: logging.INFO,
    Kind.CLOSED: logging.INFO,
    Kind.STORE_LOST: logging.WARNING,
    Kind.STORE_BACK: logging.INFO,
    Kind.DROPPED: logging.WARNING,
}


@dataclass(frozen=True)
class Event:
    kind: Kind
    name: str
    """Of the watchdog or the breaker."""
    detail: str = ""
    attempt: int = 0
    """From 1; 0 where there is none."""
    seconds: float = 0.0
    """Since the call began."""
    at: float = 0.0
    """Of the epoch, in seconds."""


Listener = Callable[[Event], None]


class Pipe:
    """A bounded queue and the thread that empties it; the thread ends when there was nothing for a while."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._waiting: deque[tuple[contextvars.Context, Listener | None, Event]] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._busy = False

    def put(self, event: Event, listener: Listener | None) -> None:
        """The listener runs in the context of the guarded call, so that a log line has its trace."""
        with self._condition:
            if len(self._waiting) >= self._most:
                self._dropped += 1
                return
            if self._dropped:
                lost = Event(Kind.DROPPED, event.name, f"{self._dropped} events of watchdogs", at=time.time())
                self._waiting.append((contextvars.copy_context(), None, lost))
                self._dropped = 0
            self._waiting.append((contextvars.copy_context(), listener, event))
            if self._thread is None:
                self._start()
            self._condition.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._deliver, name="stepforge-watchdog-events", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No more threads, for now or because the interpreter ends: what waits is taken by the next that starts.
            return
        self._thread = thread

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything was delivered; False where that took too long."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._busy, timeout_seconds)

    def _deliver(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                if not self._condition.wait_for(lambda: bool(self._waiting), IDLE_SECONDS):
                    self._thread = None
                    return
                context, listener, event = self._waiting.popleft()
                self._busy = True
            try:
                context.run(_tell, listener, event)
            except Exception:
                logger.exception("a listener of watchdog %s failed on %s", event.name, event.kind)


def _tell(listener: Listener | None, event: Event) -> None:
    if listener is not None:
        listener(event)
    logger.log(
        LEVELS[event.kind],
        "watchdog %s: %s%s",
        event.name,
        event.kind,
        f": {event.detail}" if event.detail else "",
        extra={
            "watchdog": event.name,
            "event": str(event.kind),
            "attempt": event.attempt,
            "seconds": round(event.seconds, 6),
        },
    )


_pipe = Pipe()


def tell(
    kind: Kind, name: str, detail: str = "", *, attempt: int = 0, seconds: float = 0.0, listener: Listener | None = None
) -> None:
    """Returns at once. Costs next to nothing where nobody listens at the event's level."""
    if listener is None and not logger.isEnabledFor(LEVELS[kind]):
        return
    _pipe.put(Event(kind, name, detail, attempt, seconds, time.time()), listener)


def flush_events(timeout_seconds: float = 1.0) -> bool:
    """Wait until all events so far were delivered, at the end of a process say; False where that took too long."""
    return _pipe.flush(timeout_seconds)


def _after_fork() -> None:
    # The thread, and perhaps the holder of the lock, stayed in the parent.
    global _pipe
    _pipe = Pipe()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: flush_events(_EXIT_SECONDS))
