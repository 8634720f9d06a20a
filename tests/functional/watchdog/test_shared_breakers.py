"""Breakers in a real Redis: many processes, one probe; Redis killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.redis_server import BINARY, WITHOUT, RedisServer

from stepforge.errors import CircuitOpen
from stepforge.testing import FakeClock
from stepforge.watchdog import Breaker, Event, Kind, MemoryState, RedisState, flush_events, watchdog
from stepforge.watchdog._breaker import Permit

pytestmark = pytest.mark.skipif(BINARY is None, reason=WITHOUT)
redis = pytest.importorskip("redis", reason="pip install 'stepforge[redis]'")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


def down() -> str:
    raise ConnectionError("down")


def fails(call: Callable[[], object], error: type[Exception] = ConnectionError, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(error):
            call()


def breaker(state: RedisState, *, failures: int = 2, open_seconds: float = 60, name: str = "service") -> Breaker:
    return Breaker(name, failures=failures, open_seconds=open_seconds, state=state)


def test_of_eight_processes_exactly_one_is_let_through_each_time(server: RedisServer) -> None:
    processes, rounds = 8, 10
    client = redis.Redis.from_url(server.url)
    # The circuit opens in round -1, and its time is over when the first process gets here.
    first = breaker(RedisState(server.url), failures=1, open_seconds=0, name="shared")
    fails(watchdog("first", breaker=first)(down))
    command = [sys.executable, str(Path(__file__).parent / "prober.py"), server.url, str(processes), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])}
    subprocess.run(command, env=environment, check=True, timeout=60)
    inside = [int(client.get(f"inside:{number}") or 0) for number in range(rounds)]
    refused = [int(client.get(f"refused:{number}") or 0) for number in range(rounds)]
    assert inside == [1] * rounds
    assert refused == [processes - 1] * rounds


def test_what_one_worker_finds_out_another_knows(server: RedisServer) -> None:
    one, other = RedisState(server.url), RedisState(server.url)
    fails(watchdog("one", breaker=breaker(one))(down))
    fails(watchdog("other", breaker=breaker(other))(down))
    fails(watchdog("one", breaker=breaker(one))(down), CircuitOpen)
    assert (breaker(one).status, breaker(other).status) == ("open", "open")
    assert breaker(one, name="another").status == "closed"
    client = redis.Redis.from_url(server.url)
    assert all(client.pttl(key) > 0 for key in client.keys("stepforge:breaker:*"))


def test_clocks_of_hosts_that_differ_by_ten_minutes_change_nothing(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = RedisState(server.url, clock=FakeClock(0)), RedisState(server.url, clock=FakeClock(600))
    fails(watchdog("early", breaker=breaker(early, failures=1, open_seconds=1))(down))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 600)
    fails(watchdog("late", breaker=breaker(late, failures=1, open_seconds=1))(down), CircuitOpen)
    time.sleep(1.05)
    monkeypatch.setattr(time, "time", lambda: now() - 600)
    assert watchdog("late", breaker=breaker(late, open_seconds=1))(lambda: "up")() == "up"
    assert breaker(early).status == "closed"


@pytest.mark.parametrize("open_seconds", [0, 1_000])
def test_memory_and_redis_decide_alike(server: RedisServer, open_seconds: float) -> None:
    draws = random.Random(open_seconds)
    clock = FakeClock()
    for trial in range(60):
        memory, shared = MemoryState(clock), RedisState(server.url)
        rules = Breaker(f"trial-{trial}", failures=3, open_seconds=open_seconds, probe_seconds=1_000).rules
        held: list[tuple[Permit, Permit]] = []
        for _ in range(25):
            if not held or draws.random() < 0.5:
                ours, theirs = memory.ask(rules).permit, shared.ask(rules).permit
                assert (ours is None, bool(ours and ours.probe)) == (theirs is None, bool(theirs and theirs.probe))
                if ours is not None and theirs is not None:
                    held.append((ours, theirs))
            else:
                ours, theirs = held.pop(draws.randrange(len(held)))
                verdict: Any = draws.choice(["success", "failure", "failure", "neutral"])
                assert memory.report(rules, ours, verdict) == shared.report(rules, theirs, verdict)
            assert memory.status(rules) == shared.status(rules)
        assert shared.shared


def test_redis_killed_midway_fails_no_call_and_is_shared_again_after_its_restart(server: RedisServer) -> None:
    events: list[Event] = []
    state = RedisState(server.url, again_seconds=0.05, on_event=events.append)
    call = watchdog("call", budget_seconds=5, breaker=breaker(state))(lambda: "up")
    assert call() == "up"
    server.kill()
    assert [call() for _ in range(20)] == ["up"] * 20
    assert not state.shared
    # Breakers go on, in memory.
    fails(watchdog("down", breaker=breaker(state))(down), times=2)
    fails(call, CircuitOpen)
    server.start()
    time.sleep(0.06)
    assert call() == "up"
    assert state.shared
    fails(watchdog("down", breaker=breaker(state))(down), times=2)
    assert breaker(RedisState(server.url)).status == "open"
    assert flush_events(5)
    assert [event.kind for event in events] == [Kind.STORE_LOST, Kind.STORE_BACK]


def test_an_open_circuit_stays_open_when_redis_goes(server: RedisServer) -> None:
    one, other = RedisState(server.url), RedisState(server.url)
    fails(watchdog("one", breaker=breaker(one))(down), times=2)
    call = watchdog("other", breaker=breaker(other))(lambda: "up")
    fails(call, CircuitOpen)
    server.kill()
    fails(call, CircuitOpen)


def test_redis_that_is_absent_from_the_beginning_raises_nothing(server: RedisServer) -> None:
    server.kill()
    state = RedisState(server.url)
    assert watchdog("call", breaker=breaker(state))(lambda: "up")() == "up"
    assert not state.shared


def test_redis_that_hangs_delays_one_call_by_its_timeout_and_no_more(server: RedisServer) -> None:
    state = RedisState(server.url, timeout_seconds=0.5, again_seconds=60)
    call = watchdog("call", breaker=breaker(state))(lambda: "up")
    call()
    server.pause()
    started = time.monotonic()
    assert call() == "up"
    first = time.monotonic() - started
    assert [call() for _ in range(20)] == ["up"] * 20
    rest = time.monotonic() - started - first
    server.go_on()
    assert first >= 0.5
    assert rest < 20 * 0.5


def test_redis_that_hangs_does_not_block_an_event_loop(server: RedisServer) -> None:
    state = RedisState(server.url, timeout_seconds=0.5, again_seconds=60)

    @watchdog("call", budget_seconds=5, breaker=breaker(state))
    async def call() -> str:
        return "up"

    async def main() -> tuple[str, int]:
        assert await call() == "up"
        server.pause()
        turns = 0
        pending = asyncio.create_task(call())
        while not pending.done():
            await asyncio.sleep(0.005)
            turns += 1
        server.go_on()
        return await pending, turns

    found, turns = asyncio.run(main())
    assert found == "up"
    assert turns > 5, "the loop stood still while Redis was waited for"


def test_a_cancellation_while_redis_is_asked_gives_the_probe_back(server: RedisServer) -> None:
    state = RedisState(server.url, timeout_seconds=2)
    of = breaker(state, failures=1, open_seconds=0)
    fails(watchdog("down", breaker=of)(down))
    call = watchdog("call", breaker=of)(_up)

    async def main() -> str:
        server.pause()
        asking = asyncio.create_task(call())
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.go_on()
        for _ in range(100):
            try:
                return await call()
            except CircuitOpen:
                await asyncio.sleep(0.01)
        raise AssertionError("the probe was lost")

    assert asyncio.run(main()) == "up"


async def _up() -> str:
    return "up"


def test_the_environment_names_the_redis_of_all_breakers(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPFORGE_REDIS_URL", server.url)
    fails(watchdog("call", breaker=Breaker("of-the-env", failures=1))(down))
    assert Breaker("of-the-env", state=RedisState(server.url)).status == "open"
