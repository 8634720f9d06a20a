"""Time budgets, heartbeats, retries and circuit breakers around calls to what may hang or fail: see docs/watchdog.md.

Only the standard library is needed; `RedisState`, for breakers that many processes share, needs the extra [redis].
Not covered: calls that fail because of what they are given, and interrupting a thread.
"""

from __future__ import annotations

from stepforge.watchdog._breaker import Breaker, BreakerState, MemoryState, fault_of_callee
from stepforge.watchdog._budgets import budget_of, budget_variable
from stepforge.watchdog._calls import beat, remaining_seconds
from stepforge.watchdog._clock import SYSTEM, Clock
from stepforge.watchdog._events import Event, Kind, Listener, flush_events
from stepforge.watchdog._guard import watchdog
from stepforge.watchdog._redis import RedisState
from stepforge.watchdog._retries import Retries, is_transient

__all__ = [
    "SYSTEM",
    "Breaker",
    "BreakerState",
    "Clock",
    "Event",
    "Kind",
    "Listener",
    "MemoryState",
    "RedisState",
    "Retries",
    "beat",
    "budget_of",
    "budget_variable",
    "fault_of_callee",
    "flush_events",
    "is_transient",
    "remaining_seconds",
    "watchdog",
]
