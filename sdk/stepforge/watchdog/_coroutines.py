"""Guarded calls of coroutines. What a breaker in Redis waits for, it waits for in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

from stepforge.watchdog import _monitor
from stepforge.watchdog._breaker import Answer, Breaker, Permit, Verdict
from stepforge.watchdog._calls import Call, current
from stepforge.watchdog._plan import Do, Guard, Outcome, plan_of


async def call_coroutine(guard: Guard, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    call = guard.open()
    token = current.set(call)
    try:
        error, value = await _drive(guard, call, functools.partial(function, *args, **kwargs))
        if error is not None:
            try:
                raise error
            finally:
                del error
        return value
    finally:
        try:
            current.reset(token)
        except ValueError:
            # Closed by the garbage collector, in another context: the one that was set has ended.
            current.set(None)


async def _drive(guard: Guard, call: Call, function: Callable[[], Any]) -> Outcome:
    breaker = guard.breaker
    plan = plan_of(guard, call, lambda permit: breaker and _report_soon(breaker, permit, "neutral"))
    result: Any = None
    try:
        while True:
            wanted, given = plan.send(result)
            try:
                if wanted is Do.RUN:
                    result = await _attempt(call, function)
                elif wanted is Do.ASK:
                    result = await _ask_async(given)
                elif wanted is Do.REPORT:
                    reported = _report_soon(*given)
                    # A cancellation here does not stop the report.
                    result = (
                        reported.result() if reported.done() else await asyncio.shield(asyncio.wrap_future(reported))
                    )
                else:
                    await guard.clock.sleep_async(given)
            except BaseException as passing:  # noqa: BLE001 - the plan lets go of its permit, and raises it again
                plan.throw(passing)
    except StopIteration as ended:
        return cast(Outcome, ended.value)


async def _attempt(call: Call, function: Callable[[], Any]) -> Outcome:
    try:
        if call.heartbeat is None and call.deadline == math.inf:
            return None, await function()
        _monitor.monitor.watch(call)
        try:
            return None, await _within(call, function)
        finally:
            _monitor.monitor.forget(call)
    except Exception as error:  # noqa: BLE001 - raised again by who called, if it is not tried again
        return error, None


async def _within(call: Call, function: Callable[[], Any]) -> Any:
    """Cancels the coroutine once its time is over or a beat is missed. One that takes no notice is waited for."""
    loop, thread = asyncio.get_running_loop(), threading.get_ident()

    def when() -> float | None:
        due = call.due()
        return None if due == math.inf else loop.time() + due - call.clock.monotonic()

    scope = asyncio.timeout_at(when())

    def put_off() -> None:
        if call.on_beat is not None and not scope.expired():
            scope.reschedule(when())

    def on_beat() -> None:
        if threading.get_ident() == thread:
            put_off()
        else:
            loop.call_soon_threadsafe(put_off)

    try:
        async with scope:
            call.on_beat = None if call.heartbeat is None else on_beat
            return await function()
    except TimeoutError as error:
        if not scope.expired():
            raise
        # The loop's timer may be a little early.
        raise call.lapsed(max(call.clock.monotonic(), call.due())) from error
    finally:
        call.on_beat = None


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _in_pool(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """In a thread for what waits for Redis, so that event loops never do."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(4, thread_name_prefix="stepforge-watchdog-redis")
        return _pool.submit(contextvars.copy_context().run, function, *args)


def _after_fork() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


async def _ask_async(breaker: Breaker) -> Answer:
    if not breaker.state.waits:
        return breaker.state.ask(breaker.rules)
    asked = _in_pool(breaker.state.ask, breaker.rules)
    try:
        return cast(Answer, await asyncio.shield(asyncio.wrap_future(asked)))
    except asyncio.CancelledError:
        asked.add_done_callback(functools.partial(_give_back, breaker))
        raise


def _give_back(breaker: Breaker, asked: Future[Answer]) -> None:
    if (permit := asked.result().permit) is not None:
        breaker.state.report(breaker.rules, permit, "neutral")


def _report_soon(breaker: Breaker, permit: Permit, verdict: Verdict) -> Future[Any]:
    if breaker.state.waits:
        return _in_pool(breaker.state.report, breaker.rules, permit, verdict)
    done: Future[Any] = Future()
    done.set_result(breaker.state.report(breaker.rules, permit, verdict))
    return done
