"""Budgets, retries and nesting, on a clock that only tests move."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from stepforge.errors import BudgetExceeded, HeartbeatMissed, InvalidInput, Throttled, TooManyAbandoned
from stepforge.testing import FakeClock
from stepforge.watchdog import Breaker, Event, Kind, Retries, beat, budget_of, flush_events, remaining_seconds, watchdog


class Flaky:
    """Raises what it is given, one at a call, and then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def later(self) -> str:
        return self()


def told(events: list[Event]) -> list[Kind]:
    assert flush_events(5)
    return [event.kind for event in events]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def longest(_: float, high: float) -> float:
    return high


def test_pauses_double_up_to_the_longest_and_are_drawn_from_zero() -> None:
    clock, flaky = FakeClock(), Flaky(*[ConnectionError()] * 5)
    retries = Retries(attempts=6, first_pause_seconds=1, longest_pause_seconds=5, uniform=longest)
    assert watchdog("flaky", retries=retries, clock=clock)(flaky)() == "answer"
    assert clock.slept == [1, 2, 4, 5, 5]
    drawn = [Retries(first_pause_seconds=1).pause_seconds(2) for _ in range(400)]
    assert 0 <= min(drawn) < 0.1 < 0.9 < sum(drawn) / len(drawn) < 1.1 < 1.9 < max(drawn) <= 2


def test_only_what_may_be_gone_the_next_time_is_tried_again() -> None:
    for error, calls in ((Throttled("later"), 2), (TimeoutError(), 2), (ValueError("no"), 1), (KeyError("no"), 1)):
        flaky = Flaky(error)
        guarded = watchdog("flaky", retries=Retries(attempts=2), clock=FakeClock())(flaky)
        if calls == 2:
            assert guarded() == "answer"
        else:
            with pytest.raises(type(error)):
                guarded()
        assert flaky.calls == calls


def test_the_last_error_is_raised_when_no_attempt_is_left() -> None:
    flaky = Flaky(ConnectionError("first"), ConnectionError("second"), ConnectionError("third"))
    with pytest.raises(ConnectionError, match="second"):
        watchdog("flaky", retries=Retries(attempts=2), clock=FakeClock())(flaky)()


def test_no_pause_ends_beyond_the_budget() -> None:
    clock, flaky = FakeClock(), Flaky(*[ConnectionError()] * 9)
    retries = Retries(attempts=9, first_pause_seconds=1, uniform=longest)
    with pytest.raises(ConnectionError):
        watchdog("flaky", budget_seconds=4, retries=retries, clock=clock)(flaky)()
    assert (clock.slept, flaky.calls) == ([1, 2], 3)


def test_the_environment_sets_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    guarded = watchdog("of-the-env", budget_seconds=9, clock=FakeClock())(lambda: seen.append(remaining_seconds()))
    monkeypatch.setenv("STEPFORGE_BUDGET_OF_THE_ENV_SECONDS", "2.5")
    guarded()
    assert seen == [2.5]
    monkeypatch.delenv("STEPFORGE_BUDGET_OF_THE_ENV_SECONDS")
    assert budget_of("of-the-env", 9) == 9


@pytest.mark.parametrize("given", ["", "soon", "0", "-1", "nan", "inf", "1e9", "2 s"])
def test_a_malformed_budget_names_the_variable_what_was_given_and_what_is_allowed(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPFORGE_BUDGET_MLFLOW_SECONDS", given)
    with pytest.raises(InvalidInput) as raised:
        watchdog("mlflow", budget_seconds=3)(lambda: None)()
    for part in ("STEPFORGE_BUDGET_MLFLOW_SECONDS", repr(given), "above 0", "2.5", "it is 3 then"):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["", "Mlflow", "a b", "-a", "a-", "a--b", "1a"])
def test_a_name_that_would_be_no_variable_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="no name"):
        watchdog(name)


def test_a_function_that_is_late_is_told_while_it_runs_and_its_result_is_returned() -> None:
    events: list[Event] = []

    def slow() -> str:
        until(lambda: told(events) == [Kind.STARTED, Kind.LATE])
        return "late"

    assert watchdog("slow", budget_seconds=0.02, on_event=events.append)(slow)() == "late"
    assert told(events) == [Kind.STARTED, Kind.LATE]


def test_a_function_that_beats_ends_when_its_time_is_over() -> None:
    clock = FakeClock()

    def endless() -> None:
        while True:
            clock.advance(1)
            beat()

    with pytest.raises(BudgetExceeded, match="its budget of 3 s") as raised:
        watchdog("endless", budget_seconds=3, clock=clock)(endless)()
    assert clock.monotonic() == 3
    assert isinstance(raised.value, TimeoutError)


def test_an_abandoned_call_returns_in_time_and_its_late_result_is_dropped() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang() -> str:
        release.wait(5)
        ended.set()
        return "too late"

    started = time.monotonic()
    with pytest.raises(BudgetExceeded):
        watchdog("hang", budget_seconds=0.05, when_late="abandon")(hang)()
    assert 0.05 <= time.monotonic() - started < 3
    release.set()
    assert ended.wait(5)


def test_abandoned_threads_are_bounded_and_come_back() -> None:
    release = threading.Event()
    guarded = watchdog("hang", budget_seconds=0.01, when_late="abandon", most_abandoned=3)(lambda: release.wait(5))
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            guarded()
    with pytest.raises(TooManyAbandoned, match="3 earlier calls"):
        guarded()
    assert threading.active_count() <= before + 4
    release.set()
    answers: list[bool] = []

    def answered() -> bool:
        # A machine that is busy may be late by more than the budget.
        with contextlib.suppress(TooManyAbandoned, BudgetExceeded):
            answers.append(guarded())
        return len(answers) == 20

    until(answered)
    assert threading.active_count() <= before + 4


def test_an_abandoned_function_runs_with_the_callers_context_and_raises_in_the_caller() -> None:
    seen = []

    @watchdog("outer", budget_seconds=5, clock=FakeClock())
    def outer() -> None:
        inner()

    @watchdog("inner", budget_seconds=1, when_late="abandon")
    def inner() -> None:
        seen.append(remaining_seconds())
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        outer()
    assert 0.9 < seen[0] <= 1


def test_an_inner_budget_never_exceeds_what_the_outer_has_left() -> None:
    clock, seen = FakeClock(), []

    @watchdog("inner", budget_seconds=10, clock=clock)
    def inner() -> None:
        seen.append(remaining_seconds())

    @watchdog("outer", budget_seconds=4, clock=clock)
    def outer() -> None:
        inner()
        clock.advance(3)
        inner()
        clock.advance(1)
        inner()

    with pytest.raises(BudgetExceeded, match="'outer' around it had left"):
        outer()
    assert seen == [4, 1]
    assert remaining_seconds() == math.inf


def test_retries_of_an_inner_call_end_with_the_outers_budget() -> None:
    clock, flaky = FakeClock(), Flaky(*[ConnectionError()] * 50)
    retries = Retries(attempts=50, first_pause_seconds=1, longest_pause_seconds=1, uniform=longest)
    inner = watchdog("inner", retries=retries, clock=clock)(flaky)
    with pytest.raises(ConnectionError):
        watchdog("outer", budget_seconds=3, clock=clock)(inner)()
    assert clock.monotonic() == 2


def test_an_outer_call_tries_again_what_an_inner_budget_ended() -> None:
    clock, slow = FakeClock(), [2.0, 0.0]

    @watchdog("outer", retries=Retries(attempts=2), clock=clock)
    @watchdog("inner", budget_seconds=1, clock=clock)
    def inner() -> str:
        clock.advance(slow.pop(0))
        beat()
        return "answer"

    assert inner() == "answer"


def test_a_beat_in_an_inner_call_is_one_of_the_outer() -> None:
    clock = FakeClock()

    @watchdog("inner", clock=clock)
    def inner() -> None:
        for _ in range(4):
            clock.advance(1.5)
            beat()

    watchdog("outer", heartbeat_seconds=2, clock=clock)(inner)()


def test_a_function_whose_beat_comes_too_late_ends_there() -> None:
    clock, events = FakeClock(), list[Event]()

    def silent() -> None:
        beat()
        clock.advance(2.5)
        beat()

    with pytest.raises(HeartbeatMissed, match=r"no beat for 2.5 s, where one is due every 2 s"):
        watchdog("silent", heartbeat_seconds=2, clock=clock, on_event=events.append)(silent)()
    assert told(events) == [Kind.STARTED, Kind.BEAT_MISSED]
    watchdog("silent", heartbeat_seconds=2, when_beat_missed="tell", clock=clock, on_event=events.append)(silent)()
    assert told(events)[2:] == [Kind.STARTED, Kind.BEAT_MISSED]


def test_a_silent_function_is_told_while_it_is_silent() -> None:
    events: list[Event] = []

    def silent() -> None:
        until(lambda: Kind.BEAT_MISSED in told(events))

    watchdog("silent", heartbeat_seconds=0.05, on_event=events.append)(silent)()


def test_an_abandoned_call_lives_as_long_as_it_beats() -> None:
    def busy(beats: int) -> str:
        for _ in range(beats):
            time.sleep(0.02)
            beat()
        release.wait(5 if beats < 20 else 0)
        return "done"

    release = threading.Event()
    assert watchdog("busy", heartbeat_seconds=5, when_late="abandon")(busy)(20) == "done"
    started = time.monotonic()
    with pytest.raises(HeartbeatMissed):
        watchdog("busy", heartbeat_seconds=0.3, when_late="abandon")(busy)(1)
    assert time.monotonic() - started < 4
    release.set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_through_and_is_not_tried_again(error: type[BaseException]) -> None:
    for settings in ({}, {"when_late": "abandon"}):
        flaky = Flaky(error())
        with pytest.raises(error):
            watchdog("flaky", retries=Retries(attempts=3, when=lambda _: True), **settings)(flaky)()
        assert flaky.calls == 1


def test_a_function_may_raise_stop_iteration() -> None:
    with pytest.raises(StopIteration):
        watchdog("flaky")(Flaky(StopIteration()))()


def test_generators_classes_and_misplaced_decorators_are_refused_with_a_remedy() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function, remedy in (
        (generator, "guard the function that takes them"),
        (async_generator, "guard the function that takes them"),
        (Flaky, "is a class"),
        (staticmethod(print), "put it below"),
        (classmethod(print), "put it below"),
        (3, "cannot be called"),
    ):
        with pytest.raises(TypeError, match=remedy):
            watchdog("wrong")(function)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="async def"):
        watchdog("wrong")(lambda: Flaky().later())()
    with pytest.raises(InvalidInput, match="leave when_late out"):
        watchdog("wrong", when_late="abandon")(Flaky().later)


def test_methods_names_and_arguments_stay() -> None:
    class Thing:
        @watchdog("thing")
        def add(self, a: int, *, b: int = 2) -> int:
            """Adds."""
            return a + b

    assert (Thing().add(1), Thing().add(1, b=5), Thing.add.__doc__, Thing.add.__name__) == (3, 6, "Adds.", "add")
    assert asyncio.iscoroutinefunction(watchdog("later")(Flaky().later))


def test_a_guarded_function_may_call_itself() -> None:
    @watchdog("factorial", budget_seconds=5, clock=FakeClock())
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(20) == math.factorial(20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retries(attempts=1.5),  # type: ignore[arg-type]
        lambda: Retries(first_pause_seconds="1"),  # type: ignore[arg-type]
        lambda: Retries(longest_pause_seconds=math.nan),
        lambda: watchdog("text", budget_seconds="5"),  # type: ignore[arg-type]
        lambda: watchdog("truth", budget_seconds=True),
        lambda: Breaker("nan", open_seconds=math.nan),
        lambda: Breaker("half", failures=1.5),  # type: ignore[arg-type]
        lambda: Breaker("text", probe_seconds="1"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_are_no_numbers_are_told(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInput, match=r"must be|between"):
        make()
