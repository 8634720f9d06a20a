"""The decorator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, cast

from stepforge.errors import InvalidInput
from stepforge.watchdog._breaker import Breaker
from stepforge.watchdog._budgets import NAME, is_number
from stepforge.watchdog._clock import SYSTEM, Clock
from stepforge.watchdog._coroutines import call_coroutine
from stepforge.watchdog._events import Listener
from stepforge.watchdog._functions import call_function
from stepforge.watchdog._plan import Guard
from stepforge.watchdog._retries import Retries
from stepforge.watchdog._workers import Workers

P = ParamSpec("P")
R = TypeVar("R")


def watchdog(
    name: str,
    *,
    budget_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
    when_beat_missed: Literal["raise", "tell"] = "raise",
    when_late: Literal["wait", "abandon"] = "wait",
    most_abandoned: int = 8,
    retries: Retries | None = None,
    breaker: Breaker | None = None,
    on_event: Listener | None = None,
    clock: Clock = SYSTEM,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a function or an `async def`: time budget, heartbeat, retries, circuit breaker. Its type stays.

    >>> @watchdog("mlflow-log", budget_seconds=10, retries=Retries(attempts=3), breaker=Breaker("mlflow"))
    ... def log(rows: list[float]) -> int:
    ...     return len(rows)
    >>> log([0.5])
    1

    budget_seconds: for a call with all its attempts and pauses; None is no limit. STEPFORGE_BUDGET_{NAME}_SECONDS, read
    at the first call, goes before it. Within another guarded call it is never more than that has left.

    A coroutine that is over its time is cancelled. A function cannot be interrupted: with `when_late="wait"` it runs in
    the caller's thread, `beat()` ends it once it is over its time, and a result that comes late is returned, told as
    late, and a failure to the breaker. With "abandon" it runs in a thread (context variables come along, thread-locals
    do not), the caller gets BudgetExceeded in time, and what comes later is dropped; at most `most_abandoned` such
    threads hang at a time, and calls beyond are refused.

    heartbeat_seconds: the function calls `beat()` at least that often. A beat that is missed is told while it is, and
    with `when_beat_missed="raise"` ends the call with HeartbeatMissed, as a budget would.

    on_event: gets every Event, from a thread of its own; the logger `stepforge.watchdog` has them all the same.

    A call raises what the function raised last, BudgetExceeded, HeartbeatMissed, CircuitOpen or TooManyAbandoned.
    Cancellations, KeyboardInterrupt and their like pass through, are never tried again and are no failures. Raises
    TypeError for generators and classes, InvalidInput for settings that cannot work.
    """
    _check(name, budget_seconds, heartbeat_seconds, most_abandoned)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        _check_kind(name, function, called)
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
        if is_async and when_late == "abandon":
            raise InvalidInput(f"watchdog {name!r}: a coroutine is cancelled when it is late; leave when_late out")
        guard = Guard(
            name=name,
            default_budget=budget_seconds,
            heartbeat=heartbeat_seconds,
            raises=when_beat_missed == "raise",
            retries=retries,
            breaker=breaker,
            listener=on_event,
            clock=clock,
            workers=Workers(name, most_abandoned) if when_late == "abandon" else None,
        )

        if is_async:
            awaited = cast(Callable[..., Coroutine[Any, Any, Any]], function)

            @functools.wraps(function)
            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                return await call_coroutine(guard, awaited, args, kwargs)

            return cast(Callable[P, R], guarded_async)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            return call_function(guard, function, args, kwargs)

        return cast(Callable[P, R], guarded)

    return decorate


def _check(name: str, budget: float | None, heartbeat: float | None, most_abandoned: int) -> None:
    if not NAME.fullmatch(name):
        raise InvalidInput(f"watchdog {name!r} is no name: use small letters, digits and hyphens, such as 'mlflow-log'")
    for setting, seconds in (("budget_seconds", budget), ("heartbeat_seconds", heartbeat)):
        if seconds is None:
            continue
        if not is_number(seconds) or seconds <= 0:
            raise InvalidInput(
                f"watchdog {name!r}: {setting} {seconds!r} must be a number above 0, or None for no limit"
            )
    if most_abandoned < 1:
        raise InvalidInput(f"watchdog {name!r}: most_abandoned {most_abandoned} must be 1 or more")


def _check_kind(name: str, function: object, called: object) -> None:
    if isinstance(function, (classmethod, staticmethod)):
        raise TypeError(f"watchdog {name!r} stands above @{type(function).__name__}: put it below, next to the def")
    if inspect.isclass(function):
        raise TypeError(f"watchdog {name!r} guards functions, and {function.__qualname__} is a class")
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (function, called)):
        raise TypeError(
            f"watchdog {name!r} cannot guard a generator, which runs when its values are taken: guard the function "
            "that takes them, and call beat() for each"
        )
    if not callable(function):
        raise TypeError(f"watchdog {name!r} guards functions, and {function!r} cannot be called")
