"""Time as the watchdog sees it; `stepforge.testing.FakeClock` is another one."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that never go back, and pauses."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    async def sleep_async(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own; a wall clock that is set has no effect on it."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    sleep_async = staticmethod(asyncio.sleep)


SYSTEM: Clock = SystemClock()
