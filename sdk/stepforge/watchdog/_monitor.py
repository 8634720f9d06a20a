"""One thread that looks at the calls which run in the threads of those who called them.

Nothing can interrupt these; but that one is late, or silent, is told while it is and not only when it ends.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time

from stepforge.watchdog._calls import Call

LOOK_SECONDS = 0.05
"""How much later than it happens something may be told."""
IDLE_LOOKS = 20


class Monitor:
    def __init__(self) -> None:
        self._calls: dict[Call, contextvars.Context] = {}
        self._wanted = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, call: Call) -> None:
        self._calls[call] = contextvars.copy_context()
        if not self._wanted.is_set():
            self._wanted.set()
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._look, name="stepforge-watchdog", daemon=True)
                    self._thread.start()

    def forget(self, call: Call) -> None:
        self._calls.pop(call, None)

    def _look(self) -> None:
        idle = 0
        while True:
            for call, context in self._calls.copy().items():
                context.run(call.look, call.clock.monotonic())
            idle = 0 if self._calls else idle + 1
            if idle > IDLE_LOOKS:
                self._wanted.clear()
                # One that came between the look and the line above saw that nobody had to be woken.
                if not self._calls:
                    self._wanted.wait()
                self._wanted.set()
                idle = 0
            time.sleep(LOOK_SECONDS)


monitor = Monitor()


def _after_fork() -> None:
    global monitor
    monitor = Monitor()


os.register_at_fork(after_in_child=_after_fork)
