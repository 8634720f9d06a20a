"""Guarded calls of functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import CoroutineType
from typing import Any, cast

from stepforge.watchdog import _monitor
from stepforge.watchdog._calls import Call, current
from stepforge.watchdog._plan import Do, Guard, Outcome, plan_of


def call_function(guard: Guard, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    call = guard.open()
    token = current.set(call)
    try:
        error, value = _drive(guard, call, functools.partial(function, *args, **kwargs))
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback refers to this frame.
                del error
        return value
    finally:
        current.reset(token)


def _drive(guard: Guard, call: Call, function: Callable[[], Any]) -> Outcome:
    breaker = guard.breaker
    plan = plan_of(guard, call, lambda permit: breaker and breaker.state.report(breaker.rules, permit, "neutral"))
    result: Any = None
    try:
        while True:
            wanted, given = plan.send(result)
            try:
                if wanted is Do.RUN:
                    result = _attempt(guard, call, function)
                elif wanted is Do.ASK:
                    result = given.state.ask(given.rules)
                elif wanted is Do.REPORT:
                    asked, permit, verdict = given
                    result = asked.state.report(asked.rules, permit, verdict)
                else:
                    guard.clock.sleep(given)
            except BaseException as passing:  # noqa: BLE001 - the plan lets go of its permit, and raises it again
                plan.throw(passing)
    except StopIteration as ended:
        return cast(Outcome, ended.value)


def _attempt(guard: Guard, call: Call, function: Callable[[], Any]) -> Outcome:
    watched = guard.workers is None and (call.heartbeat is not None or call.deadline < math.inf)
    if watched:
        _monitor.monitor.watch(call)
    try:
        value = function() if guard.workers is None else guard.workers.run(call, function)
    except Exception as error:  # noqa: BLE001 - raised again by who called, if it is not tried again
        return error, None
    finally:
        if watched:
            _monitor.monitor.forget(call)
    if type(value) is CoroutineType:
        value.close()
        raise TypeError(
            f"{guard.name!r} guards a function that returns a coroutine: its budget would cover none of it. Guard an "
            "`async def` instead"
        )
    return None, value
