"""Breakers in memory, what counts as a failure, and that watching and telling cost the guarded call nothing."""

from __future__ import annotations

import doctest
import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

from stepforge.errors import BudgetExceeded, CircuitOpen, EnvironmentUnavailable, InvalidInput
from stepforge.testing import FakeClock
from stepforge.watchdog import (
    Breaker,
    Event,
    Kind,
    MemoryState,
    RedisState,
    Retries,
    beat,
    flush_events,
    watchdog,
)
from stepforge.watchdog._events import Pipe


class Service:
    """Fails while it is down."""

    def __init__(self) -> None:
        self.down = True
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.down:
            raise ConnectionError("down")
        return "up"


def made(clock: FakeClock, *, failures: int = 3, **settings: float) -> Breaker:
    return Breaker("service", failures=failures, open_seconds=10, state=MemoryState(clock), **settings)  # type: ignore[arg-type]


def fails(call: Callable[[], object], error: type[Exception] = ConnectionError) -> None:
    with pytest.raises(error):
        call()


def test_it_opens_after_so_many_failures_in_a_row_lets_one_through_and_closes() -> None:
    clock, service, events = FakeClock(), Service(), list[Event]()
    call = watchdog("call", breaker=made(clock), clock=clock, on_event=events.append)(service)
    for _ in range(3):
        fails(call)
    with pytest.raises(
        CircuitOpen, match=r"open after 3 failures in a row, and lets a call through in about 10 s"
    ) as e:
        call()
    assert (service.calls, e.value.again_seconds) == (3, 10)
    clock.advance(10)
    fails(call)  # the probe
    fails(call, CircuitOpen)
    clock.advance(10)
    service.down = False
    assert call() == "up"
    assert flush_events(5)
    kinds = [event.kind for event in events if event.kind is not Kind.STARTED]
    assert kinds == [Kind.OPENED, Kind.PROBED, Kind.OPENED, Kind.PROBED, Kind.CLOSED]


def test_a_success_in_between_starts_the_count_anew() -> None:
    clock, service = FakeClock(), Service()
    breaker = made(clock)
    call = watchdog("call", breaker=breaker, clock=clock)(service)
    for _ in range(4):
        service.down = True
        fails(call)
        fails(call)
        service.down = False
        call()
    assert breaker.status == "closed"


def test_the_callers_own_mistakes_are_no_failures_and_close_an_open_circuit() -> None:
    clock, errors = FakeClock(), [ConnectionError(), InvalidInput("no such row")]

    def call() -> None:
        raise errors.pop(0)

    breaker = made(clock, failures=1)
    guarded = watchdog("call", breaker=breaker, clock=clock)(call)
    fails(guarded)
    clock.advance(10)
    fails(guarded, InvalidInput)
    assert breaker.status == "closed"


def test_attempts_count_and_the_last_error_is_raised_once_it_opens() -> None:
    clock, service = FakeClock(), Service()
    call = watchdog("call", breaker=made(clock), retries=Retries(attempts=9), clock=clock)(service)
    fails(call)
    assert service.calls == 3
    fails(call, CircuitOpen)


def test_a_late_result_is_a_failure_to_the_breaker() -> None:
    clock = FakeClock()
    breaker = made(clock, failures=1)
    assert (
        watchdog("slow", budget_seconds=1, breaker=breaker, clock=clock)(lambda: clock.advance(1) or "late")() == "late"
    )
    assert breaker.status == "open"


def test_what_an_outer_budget_cut_short_is_not_held_against_what_was_called() -> None:
    clock = FakeClock()
    breaker = made(clock, failures=1)

    @watchdog("inner", budget_seconds=5, breaker=breaker, clock=clock)
    def inner() -> None:
        clock.advance(1)
        beat()

    fails(watchdog("outer", budget_seconds=1, clock=clock)(inner), BudgetExceeded)
    assert breaker.status == "closed"


def test_a_call_within_a_probe_under_the_same_breaker_is_part_of_it() -> None:
    clock, service = FakeClock(), Service()
    breaker = made(clock, failures=1)
    inner = watchdog("inner", breaker=breaker, clock=clock)(service)
    outer = watchdog("outer", breaker=breaker, clock=clock)(inner)
    fails(outer)
    clock.advance(10)
    service.down = False
    assert outer() == "up"
    assert breaker.status == "closed"


def test_an_interrupted_probe_leaves_the_circuit_to_the_next() -> None:
    clock, errors = FakeClock(), [ConnectionError(), KeyboardInterrupt()]

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "up"

    guarded = watchdog("call", breaker=made(clock, failures=1), clock=clock)(call)
    fails(guarded)
    clock.advance(10)
    with pytest.raises(KeyboardInterrupt):
        guarded()
    assert guarded() == "up"


def test_a_probe_that_never_reports_is_replaced_after_its_time() -> None:
    clock = FakeClock()
    breaker = made(clock, failures=1, probe_seconds=60)
    state, rules = breaker.state, breaker.rules
    state.report(rules, state.ask(rules).permit, "failure")  # type: ignore[arg-type]
    clock.advance(10)
    lost = state.ask(rules).permit
    assert lost is not None
    assert state.ask(rules) == (None, 60)
    clock.advance(60)
    second = state.ask(rules).permit
    assert second is not None
    assert state.report(rules, lost, "success") == "none"
    assert state.report(rules, second, "success") == "closed"


def test_a_report_of_before_the_circuit_turned_changes_nothing() -> None:
    clock = FakeClock()
    breaker = made(clock, failures=1)
    state, rules = breaker.state, breaker.rules
    early, other = state.ask(rules).permit, state.ask(rules).permit
    assert early is not None
    assert other is not None
    assert state.report(rules, other, "failure") == "opened"
    assert state.report(rules, early, "success") == "none"
    assert breaker.status == "open"


def test_of_eight_threads_one_is_let_through() -> None:
    clock, service = FakeClock(), Service()
    breaker = made(clock, failures=1)
    fails(watchdog("first", breaker=breaker, clock=clock)(service))
    through, refused, start = [], [], threading.Barrier(8)

    def probe() -> None:
        through.append(1)
        time.sleep(0.02)
        raise ConnectionError

    guarded = watchdog("probe", breaker=breaker, clock=clock)(probe)

    def work() -> None:
        for _ in range(10):
            start.wait(5)
            try:
                guarded()
            except CircuitOpen:
                refused.append(1)
            except ConnectionError:
                pass
            if start.wait(5) == 0:
                clock.advance(10)
            start.wait(5)

    clock.advance(10)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(through), len(refused)) == (10, 70)


def test_calls_through_one_breaker_run_side_by_side() -> None:
    together = threading.Barrier(8)
    guarded = watchdog("side", budget_seconds=30, breaker=Breaker("side", state=MemoryState()))(together.wait)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: guarded(20), range(8))) == list(range(8))


def test_settings_that_cannot_work_are_refused() -> None:
    for settings in ({"failures": 0}, {"open_seconds": -1}, {"probe_seconds": 0}):
        with pytest.raises(InvalidInput):
            Breaker("wrong", **settings)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no name"):
        Breaker("Wrong name")
    with pytest.raises(InvalidInput):
        Retries(attempts=0)
    with pytest.raises(InvalidInput):
        watchdog("wrong", budget_seconds=0)


def test_without_the_package_a_redis_of_the_environment_is_told_and_breakers_stay_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'stepforge\[redis\]'"):
        RedisState("redis://localhost")
    monkeypatch.setenv("STEPFORGE_REDIS_URL", "redis://:planted-password@localhost")
    assert isinstance(Breaker("here").state, MemoryState)
    assert flush_events(5)
    assert "stepforge[redis]" in caplog.text
    assert "planted-password" not in caplog.text


def test_a_malformed_redis_url_is_told_without_its_password() -> None:
    pytest.importorskip("redis")
    with pytest.raises(InvalidInput, match="redis://host:port/0") as raised:
        RedisState("http://:planted-password@localhost")
    assert "planted-password" not in str(raised.value)


# ── Events ───────────────────────────────────────────────────────────────────────────────────────


def test_a_listener_that_hangs_holds_nobody_up_and_what_is_dropped_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    pipe, release, seen = Pipe(most=10), threading.Event(), []

    def hang(event: Event) -> None:
        release.wait(5)
        seen.append(event)

    started = time.monotonic()
    for number in range(500):
        pipe.put(Event(Kind.LATE, "many", str(number)), hang)
    assert time.monotonic() - started < 3
    release.set()
    assert pipe.flush(5)
    assert 10 <= len(seen) <= 11
    pipe.put(Event(Kind.LATE, "many", "after"), hang)
    assert pipe.flush(5)
    # In two lines where events were dropped before the thread had taken its first.
    dropped = [int(count) for count in re.findall(r"(\d+) events of watchdogs", caplog.text)]
    assert sum(dropped) + len(seen) == 501


def test_a_listener_that_raises_is_logged_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Event) -> None:
        raise RuntimeError("of the listener")

    assert watchdog("call", on_event=broken)(lambda: 1)() == 1
    assert flush_events(5)
    assert "a listener of watchdog call failed on started" in caplog.text


def test_events_reach_the_log_with_keys_and_the_callers_context(caplog: pytest.LogCaptureFixture) -> None:
    from contextvars import ContextVar

    trace: ContextVar[str] = ContextVar("trace", default="none")
    seen = []
    trace.set("trace-of-the-caller")
    clock = FakeClock()
    errors = [ConnectionError("first line\nsecond line")]

    def flaky() -> None:
        if errors:
            raise errors.pop()

    with caplog.at_level(logging.INFO, "stepforge.watchdog"):
        watchdog("call", retries=Retries(), clock=clock, on_event=lambda _: seen.append(trace.get()))(flaky)()
        assert flush_events(5)
    assert set(seen) == {"trace-of-the-caller"}
    record = next(record for record in caplog.records if record.__dict__["event"] == "retried")
    assert (record.__dict__["watchdog"], record.__dict__["attempt"]) == ("call", 1)
    assert "ConnectionError: first line" in record.getMessage()
    assert "second line" not in record.getMessage()


@pytest.mark.parametrize("name", ["_budgets", "_breaker", "_guard", "_retries"])
def test_examples_run(name: str) -> None:
    module = import_module(f"stepforge.watchdog.{name}")
    names = {"Breaker": Breaker, "Retries": Retries, "watchdog": watchdog}
    ran = doctest.testmod(module, extraglobs=names)
    assert ran.failed == 0
    assert ran.attempted > 0


def test_a_fake_clocks_example_runs() -> None:
    assert doctest.testmod(import_module("stepforge.testing")).failed == 0
