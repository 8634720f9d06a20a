"""Threads for calls that may be abandoned. A bounded number of them hang, and none keeps a process from ending.

`ThreadPoolExecutor` does neither: its queue grows behind threads that hang, and the interpreter waits for them at exit.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from stepforge.errors import TooManyAbandoned
from stepforge.watchdog._calls import Call

IDLE_SECONDS = 10.0


class _Job:
    __slots__ = ("abandoned", "context", "done", "error", "run", "value")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run, self.context = run, contextvars.copy_context()
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.abandoned = False


class Workers:
    """Of one guarded function."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        """Threads that wait for a job and have none assigned."""
        self._abandoned = 0

    def run(self, call: Call, function: Callable[[], Any]) -> Any:
        """What the function returns or raises. Raises BudgetExceeded or HeartbeatMissed once the call is over its time:
        the function goes on in its thread, and what comes of it is dropped. TooManyAbandoned where too many do so.
        """
        job = _Job(function)
        self._begin(job)
        try:
            while not job.done.wait(max(0.0, min(call.due() - call.clock.monotonic(), threading.TIMEOUT_MAX))):
                # A beat may have come while this thread slept.
                now = call.clock.monotonic()
                if now >= call.due():
                    raise call.lapsed(now)
        except BaseException:
            self._abandon(job)
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                # Its traceback refers to this frame.
                del job
        return job.value

    def _begin(self, job: _Job) -> None:
        with self._lock:
            if self._abandoned >= self._most:
                raise TooManyAbandoned(
                    f"{self._name!r} is not called: {self._abandoned} earlier calls were abandoned and still hang. "
                    "Give what they call a timeout of its own (remaining_seconds() says how long), or raise "
                    "most_abandoned"
                )
            fresh = self._free == 0
            self._free -= not fresh
        if fresh:
            threading.Thread(target=self._work, args=(job,), name=f"watchdog-{self._name}", daemon=True).start()
        else:
            self._inbox.put(job)

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if not job.done.is_set():
                job.abandoned = True
                self._abandoned += 1

    def _work(self, job: _Job) -> None:
        while True:
            try:
                job.value = job.context.run(job.run)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                job.error = error
            with self._lock:
                self._abandoned -= job.abandoned
                self._free += 1
                job.done.set()
            # An idle thread would hold on to what it returned last.
            del job
            while True:
                try:
                    job = self._inbox.get(timeout=IDLE_SECONDS)
                    break
                except queue.Empty:
                    with self._lock:
                        # Where none is free, a job that this thread is to take is on its way.
                        if self._free > 0:
                            self._free -= 1
                            return
