"""Takes lines at once and writes them from a thread of its own. Nothing is dropped without being counted.

A line is formatted and redacted where it is logged: its arguments may change afterwards, a queue then holds no secret,
and a fork, a signal or an exit has only bytes to write. What may take long, the sink, is the thread's.

- A full queue (`capacity` lines) drops what is below ERROR; ERROR and above wait `error_wait_seconds` for room first.
  The numbers of lines lost follow in a line of their own as soon as there is room.
- A failing sink is tried again, once a second at most, while its lines wait in the queue.
- A forked child writes at once: threads do not survive a fork, and children often end by os._exit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from stepforge.logs._sinks import AT_ONCE, Sink

OWN = "stepforge.logs"
_GATHER_SECONDS = 0.01
"""How long lines are gathered for one write: a thread that wakes for each takes the interpreter from the caller."""
_Flag = queue.SimpleQueue[None]


class LineHandler(logging.Handler):
    """`queued=False` writes at once in the caller, for processes that are frozen between calls, as on Lambda."""

    def __init__(
        self,
        sink: Sink,
        *,
        queued: bool = True,
        capacity: int = 8_192,
        error_wait_seconds: float = 0.25,
        close_seconds: float = 5.0,
        tick: Callable[[], None] | None = None,
        tick_seconds: float = 1.0,
    ) -> None:
        super().__init__()
        self._sink = sink
        self._capacity = capacity
        self._error_wait_seconds = error_wait_seconds
        self._close_seconds = close_seconds
        self._tick, self._tick_seconds = tick, tick_seconds
        self._queued = queued
        self._begin()
        _handlers.add(self)

    def _begin(self) -> None:
        self._lines: deque[bytes | _Flag] = deque()
        self._offset = 0
        self._partial: tuple[int, bytes] = (0, b"")
        self._lost: Counter[str] = Counter()
        self._counting = threading.RLock()
        self._writing = threading.RLock()
        self._writer = 0
        self._wake = queue.SimpleQueue[None]()
        self._awake = False
        self._failing = ""
        self._afterwards: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def createLock(self) -> None:
        """None is needed, and one would hang a signal handler that logs."""
        self.lock = None

    def forked(self) -> None:
        """In the child: what waits is the parent's to write, and its locks may be held by threads that are gone."""
        self._queued = False
        self._begin()

    # ── The caller's side ────────────────────────────────────────────────────────────────────────

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode()
        except Exception as error:  # noqa: BLE001 - whatever is logged must not end the program; it is told and counted
            self._count(record.levelname)
            self._say(f"a record of {record.name} cannot be formatted: {type(error).__name__}")
            return
        self._accept(line, record)

    def _accept(self, line: bytes, record: logging.LogRecord) -> None:
        if self._queued and len(self._lines) >= self._capacity and not self._room(record.levelno):
            self._count(record.levelname)
            return
        self._lines.append(line)
        # Looked at after the append: whoever ends the queue has either seen the line or is seen here.
        if self._queued:
            self._rouse()
        else:
            self._drain()

    def _room(self, level: int) -> bool:
        """ERROR and above wait for it."""
        if level < logging.ERROR or threading.get_ident() == self._writer:
            return False
        deadline = time.monotonic() + self._error_wait_seconds
        while time.monotonic() < deadline:
            time.sleep(0.002)
            if len(self._lines) < self._capacity or not self._queued:
                return True
        return False

    def _rouse(self) -> None:
        if self._thread is None:
            self._start()
        if not self._awake:
            self._awake = True
            self._wake.put(None)

    def _start(self) -> None:
        with self._counting:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._listen, name="stepforge-logs", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is ending, or no thread can be had.
                self._queued = False
                self._drain()
            else:
                self._thread = thread

    def watch(self) -> None:
        """Begin to tick before the first line comes."""
        if self._queued:
            self._rouse()

    def _count(self, what: str, number: int = 1) -> None:
        with self._counting:
            self._lost[what] += number

    @property
    def lost(self) -> dict[str, int]:
        """Lines that were dropped and not yet told of, by level."""
        with self._counting:
            return dict(self._lost)

    # ── The writer's side ────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        while not self._ended:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=self._tick_seconds)
            if self._queued:
                time.sleep(_GATHER_SECONDS)
            self._awake = False
            while not self._drain(patient=True) and not self._ended:
                time.sleep(min(1.0, self._tick_seconds))
            if self._tick is not None:
                self._tick()

    def _drain(self, *, patient: bool = False) -> bool:
        """Write what waits; where the sink fails, a `patient` writer leaves it waiting and returns False."""
        with self._writing:
            if self._writer == threading.get_ident():
                return True  # within a signal handler, or a sink that logs: the call around this one goes on with it
            self._writer = threading.get_ident()
            try:
                return self._write_all(patient)
            finally:
                self._writer = 0
                if (afterwards := self._afterwards) is not None:
                    afterwards()

    def _write_all(self, patient: bool) -> bool:
        while self._lines:
            flag = self._lines[0]
            if not isinstance(flag, bytes):
                self._lines.popleft()
                flag.put(None)
                continue
            count, lines = self._next()
            if not self._write(lines):
                if patient and self._queued:
                    return False
                self._count("unwritten", count)
            self._offset = 0
            for _ in range(count):
                self._lines.popleft()
            if self._lost and len(self._lines) <= self._capacity // 2:
                self._tell_lost()
        if self._lost and not self._failing:
            self._tell_lost()
        return True

    def _next(self) -> tuple[int, bytes]:
        """As many lines as one write takes. They stay in the queue until they are written.

        One at a time would be slow where the program computes: each write gives up the interpreter's lock, and to get
        it back takes up to 5 ms.
        """
        if self._offset:
            return self._partial
        limit = getattr(self._sink, "at_once", AT_ONCE)
        lines: list[bytes] = []
        size = 0
        for line in self._snapshot():
            if not isinstance(line, bytes) or (lines and size + len(line) > limit):
                break
            lines.append(line)
            size += len(line)
        self._partial = len(lines), b"".join(lines)
        return self._partial

    def _snapshot(self) -> list[bytes | _Flag]:
        """Indices, as an iterator would stumble over what callers append meanwhile."""
        return [self._lines[index] for index in range(min(256, len(self._lines)))]

    def _write(self, lines: bytes) -> bool:
        try:
            while self._offset < len(lines):
                self._offset += self._sink.write(lines[self._offset :] if self._offset else lines)
        except Exception as error:  # noqa: BLE001 - a sink may fail in any way; the program goes on
            if not self._failing:
                self._say(f"the sink fails ({type(error).__name__}: {error}); what is logged waits for it")
            self._failing = type(error).__name__
            return False
        self._failing = ""
        return True

    def _tell_lost(self) -> None:
        with self._counting:
            lost, self._lost = dict(self._lost), Counter()
        record = logging.makeLogRecord(
            {
                "name": OWN,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "%d log lines were lost: more came than the sink took",
                "args": (sum(lost.values()),),
                "lost": lost,
            }
        )
        self._offset = 0
        if not self._write(f"{self.format(record)}\n".encode()):
            with self._counting:
                self._lost.update(lost)
        self._offset = 0

    def _say(self, message: str) -> None:
        """To stderr, where the sink is what fails."""
        try:
            os.write(2, f"stepforge.logs: {message}\n".encode())
        except OSError:
            self._failing = self._failing or "stderr"

    # ── Ends ─────────────────────────────────────────────────────────────────────────────────────

    def flush(self, seconds: float | None = None) -> None:
        """Return when all that was logged before is written, or after `seconds` (5)."""
        if self._writer == threading.get_ident() or not self._lines:
            return
        if self._thread is None or not self._thread.is_alive():
            self._drain()
            return
        flag: _Flag = queue.SimpleQueue()
        self._lines.append(flag)
        self._rouse()
        try:
            flag.get(timeout=self._close_seconds if seconds is None else seconds)
        except queue.Empty:
            self._say(f"{len(self._lines)} log lines still wait for the sink")

    def write_at_once(self) -> None:
        """End the queue: what waits is written, and from now on the caller writes."""
        self._queued = False
        self.flush()

    def after_writing(self, afterwards: Callable[[], None]) -> None:
        """Write what waits, then call; from a signal handler it waits for the write that the signal came into."""
        self._queued = False
        if self._writer == threading.get_ident():
            self._afterwards = afterwards
            return
        self.flush()
        afterwards()

    def close(self) -> None:
        self.write_at_once()
        if self._lost:
            self._drain()
        self._ended = True
        self._wake.put(None)
        if self._thread is not None and threading.get_ident() != self._thread.ident:
            self._thread.join(min(1.0, self._close_seconds))
        if self._lines or self._lost:
            self._say(f"{len(self._lines) + sum(self._lost.values())} log lines could not be written")
        self._sink.close()
        super().close()


_handlers: weakref.WeakSet[LineHandler] = weakref.WeakSet()


def _after_fork(*_: Any) -> None:
    for handler in list(_handlers):
        handler.forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)
