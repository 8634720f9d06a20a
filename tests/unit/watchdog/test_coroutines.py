"""Guarded coroutines: they are cancelled in time, and cancelling them from outside is nobody's failure."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from stepforge.errors import BudgetExceeded, CircuitOpen, HeartbeatMissed
from stepforge.testing import FakeClock
from stepforge.watchdog import (
    Breaker,
    Event,
    Kind,
    MemoryState,
    Retries,
    beat,
    flush_events,
    remaining_seconds,
    watchdog,
)


def test_a_coroutine_that_is_late_is_cancelled() -> None:
    cancelled = []

    @watchdog("hang", budget_seconds=0.03)
    async def hang() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    started = time.monotonic()
    with pytest.raises(BudgetExceeded, match=r"its budget of 0.03 s"):
        asyncio.run(hang())
    assert cancelled == [True]
    assert time.monotonic() - started < 3


def test_a_time_out_of_the_coroutines_own_is_not_the_watchdogs() -> None:
    @watchdog("own", budget_seconds=5)
    async def own() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError) as raised:
        asyncio.run(own())
    assert not isinstance(raised.value, BudgetExceeded)


def test_a_cancellation_from_outside_passes_through_is_not_tried_again_and_is_no_failure() -> None:
    calls, events = [], list[Event]()
    breaker = Breaker("cancelled", failures=1, state=MemoryState())

    @watchdog("cancelled", budget_seconds=5, retries=Retries(attempts=5), breaker=breaker, on_event=events.append)
    async def hang() -> None:
        calls.append(1)
        await asyncio.sleep(5)

    async def main() -> None:
        task = asyncio.create_task(hang())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert flush_events(5)
    assert (calls, breaker.status, [event.kind for event in events]) == ([1], "closed", [Kind.STARTED])


def test_a_cancelled_probe_leaves_the_circuit_to_the_next() -> None:
    clock = FakeClock()
    breaker = Breaker("probe", failures=1, open_seconds=10, state=MemoryState(clock))
    hangs = [False, True, False]

    @watchdog("probe", breaker=breaker, clock=clock)
    async def call() -> str:
        if hangs.pop(0):
            await asyncio.sleep(5)
        elif hangs:
            raise ConnectionError
        return "answer"

    async def main() -> str:
        with pytest.raises(ConnectionError):
            await call()
        clock.advance(10)
        probe = asyncio.create_task(call())
        await asyncio.sleep(0.01)
        with pytest.raises(CircuitOpen):
            await call()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        return await call()

    assert asyncio.run(main()) == "answer"
    assert breaker.status == "closed"


def test_a_coroutine_that_falls_silent_is_cancelled_and_one_that_beats_is_not() -> None:
    async def work(beats: int, *, elsewhere: bool = False) -> str:
        for _ in range(beats):
            await asyncio.sleep(0.02)
            if elsewhere:
                await asyncio.to_thread(beat)
            else:
                beat()
        await asyncio.sleep(5 if beats < 20 else 0)
        return "done"

    # Two budgets: a machine that stalls for a moment is not silence.
    patient, strict = (watchdog("beats", heartbeat_seconds=seconds)(work) for seconds in (5, 0.1))
    assert asyncio.run(patient(20)) == "done"
    assert asyncio.run(patient(20, elsewhere=True)) == "done"
    started = time.monotonic()
    with pytest.raises(HeartbeatMissed, match=r"where one is due every 0.1 s"):
        asyncio.run(strict(1))
    assert time.monotonic() - started < 3


def test_a_missed_beat_is_tried_again_within_the_budget() -> None:
    silences = [5.0, 0.0]

    @watchdog("silent", budget_seconds=4, heartbeat_seconds=0.03, retries=Retries(attempts=2, first_pause_seconds=0))
    async def work() -> str:
        await asyncio.sleep(silences.pop(0))
        return "done"

    assert asyncio.run(work()) == "done"


def test_a_loop_that_is_blocked_is_told_by_another_thread() -> None:
    events: list[Event] = []

    @watchdog("blocks", heartbeat_seconds=0.03, when_beat_missed="tell", on_event=events.append)
    async def work() -> None:
        deadline = time.monotonic() + 10
        while [event.kind for event in events] != [Kind.STARTED, Kind.BEAT_MISSED]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    asyncio.run(work())


def test_budgets_of_tasks_side_by_side_are_their_own() -> None:
    @watchdog("task", budget_seconds=5)
    async def work(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return remaining_seconds()

    async def main() -> list[float]:
        return await asyncio.gather(*[work(0.01 * n) for n in range(5)])

    left = asyncio.run(main())
    assert left[0] - left[-1] > 0.03
    assert 0 < min(left) < max(left) < 5


def test_the_outer_budget_cancels_the_inner_coroutine() -> None:
    @watchdog("inner", budget_seconds=5)
    async def inner() -> None:
        await asyncio.sleep(5)

    @watchdog("outer", budget_seconds=0.03)
    async def outer() -> None:
        await inner()

    started = time.monotonic()
    with pytest.raises(BudgetExceeded):
        asyncio.run(outer())
    assert time.monotonic() - started < 3


def test_a_coroutine_that_ignores_its_cancellation_is_waited_for_and_told() -> None:
    events: list[Event] = []

    @watchdog("deaf", budget_seconds=0.02, on_event=events.append)
    async def deaf() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return "late"
        return "never"

    assert asyncio.run(deaf()) == "late"
    assert flush_events(5)
    assert [event.kind for event in events] == [Kind.STARTED, Kind.LATE]


def test_retries_pause_without_blocking_the_loop() -> None:
    ticks, errors = [], [ConnectionError(), ConnectionError()]

    @watchdog("flaky", retries=Retries(attempts=3, first_pause_seconds=0.05, uniform=lambda _, high: high))
    async def flaky() -> str:
        if errors:
            raise errors.pop()
        return "answer"

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    async def main() -> str:
        ticking = asyncio.create_task(tick())
        found = await flaky()
        ticking.cancel()
        return found

    assert asyncio.run(main()) == "answer"
    assert len(ticks) > 2


def test_a_coroutine_may_be_closed_in_another_context() -> None:
    @watchdog("closed", budget_seconds=5)
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        coroutine = hang()
        coroutine.send(None)
        contextvars.copy_context().run(coroutine.close)

    asyncio.run(main())


def test_no_thread_stays_for_each_call() -> None:
    @watchdog("many", budget_seconds=5, heartbeat_seconds=1)
    async def work() -> None:
        beat()

    async def main() -> None:
        await asyncio.gather(*[work() for _ in range(200)])

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() <= before + 2
