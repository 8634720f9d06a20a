"""Microseconds that a guard adds to a call: `python tests/benchmarks/watchdog_overhead.py`.

Peers, in the same run: tenacity and pybreaker, where they are installed. With redis-server there: what a breaker that
many processes share costs, how many calls of eight workers go through an open circuit whose time is over (one may), and
how long eight calls of 50 ms side by side through one breaker take.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sdk"), str(ROOT / "jobs"), str(ROOT)]

from stepforge.errors import CircuitOpen  # noqa: E402
from stepforge.watchdog import Breaker, MemoryState, RedisState, Retries, beat, watchdog  # noqa: E402
from tests.support.redis_server import BINARY, RedisServer  # noqa: E402

BATCH, BATCHES, WORKERS = 500, 41, 8


def nothing() -> None:
    return None


async def nothing_later() -> None:
    return None


def median_us(function: Callable[[], object], *, batch: int = BATCH) -> float:
    """Median over batches of the mean microseconds of a call."""
    times = []
    for _ in range(BATCHES):
        started = time.perf_counter()
        for _ in range(batch):
            function()
        times.append((time.perf_counter() - started) / batch * 1e6)
    return statistics.median(times)


def median_async_us(function: Callable[[], object]) -> float:
    async def main() -> float:
        times = []
        for _ in range(BATCHES):
            started = time.perf_counter()
            for _ in range(BATCH):
                await function()  # type: ignore[misc]
            times.append((time.perf_counter() - started) / BATCH * 1e6)
        return statistics.median(times)

    return asyncio.run(main())


def bench(name: str, value: float, unit: str = "us") -> None:
    print(f"BENCH {name} {value:.2f} {unit}")


def side_by_side(function: Callable[[], object]) -> float:
    """Seconds until eight threads have called it."""
    threads = [threading.Thread(target=function) for _ in range(WORKERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def calls_through(calls: list[Callable[[Callable[[], None]], object]]) -> int:
    """How many of the workers, each with a breaker of its own on one Redis, go through at once."""
    through: list[int] = []
    gate = threading.Barrier(len(calls))

    def probe() -> None:
        through.append(1)
        time.sleep(0.1)

    def work(call: Callable[[Callable[[], None]], object]) -> None:
        gate.wait()
        try:
            call(probe)
        except Exception as error:
            if "Circuit" not in type(error).__name__:
                raise

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(through)


def _failing() -> None:
    raise ConnectionError


def peers() -> None:
    if importlib.util.find_spec("tenacity"):
        import tenacity

        retried = tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential())(nothing)
        bench("tenacity_us_median", median_us(retried))
    if importlib.util.find_spec("pybreaker"):
        import pybreaker

        bench("pybreaker_us_median", median_us(pybreaker.CircuitBreaker()(nothing)))
        slow = pybreaker.CircuitBreaker()
        bench("pybreaker_8_calls_of_50_ms", side_by_side(lambda: slow.call(time.sleep, 0.05)) * 1e3, "ms")


def shared(server: RedisServer) -> None:
    state = RedisState(server.url)
    bench("watchdog_redis_us_median", median_us(watchdog("a", breaker=Breaker("a", state=state))(nothing), batch=50))
    rules = {"failures": 1, "open_seconds": 0.2}
    with_opening = watchdog("open", breaker=Breaker("probe", state=state, **rules))(_failing)  # type: ignore[arg-type]
    try:
        with_opening()
    except (ConnectionError, CircuitOpen):
        time.sleep(0.25)
    of_each = [Breaker("probe", state=RedisState(server.url), **rules) for _ in range(WORKERS)]  # type: ignore[arg-type]
    ours = calls_through([lambda probe, each=each: watchdog("p", breaker=each)(probe)() for each in of_each])  # type: ignore[misc]
    bench("watchdog_probes_of_8_workers", ours, "calls")
    if importlib.util.find_spec("pybreaker"):
        import pybreaker
        from redis import Redis

        # It tells every command that fails.
        logging.getLogger("pybreaker").setLevel(logging.CRITICAL)

        def breaker() -> pybreaker.CircuitBreaker:
            storage = pybreaker.CircuitRedisStorage("closed", Redis.from_url(server.url), namespace="peer")
            return pybreaker.CircuitBreaker(fail_max=1, reset_timeout=1, state_storage=storage)

        bench("pybreaker_redis_us_median", median_us(breaker()(nothing), batch=50))
        try:
            breaker().call(_failing)
        except pybreaker.CircuitBreakerError:
            time.sleep(2.1)
        theirs = [breaker() for _ in range(WORKERS)]
        found = calls_through([lambda probe, each=each: each.call(probe) for each in theirs])  # type: ignore[misc]
        bench("pybreaker_probes_of_8_workers", found, "calls")


def main() -> None:
    """Print a figure a line; the last is what the usual guard takes."""
    peers()
    if BINARY is not None and importlib.util.find_spec("redis"):
        server = RedisServer()
        try:
            server.start()
            shared(server)
        finally:
            server.close()
    bench("plain_call_us_median", median_us(nothing))
    bench("plain_await_us_median", median_async_us(nothing_later))
    slow = watchdog("slow", breaker=Breaker("slow", state=MemoryState()))(time.sleep)
    bench("watchdog_8_calls_of_50_ms", side_by_side(lambda: slow(0.05)) * 1e3, "ms")
    bench("watchdog_budget_us_median", median_us(watchdog("budget", budget_seconds=5)(nothing)))
    bench("watchdog_beat_us_median", median_us(watchdog("beat", heartbeat_seconds=5)(beat)))
    bench("watchdog_abandon_us_median", median_us(watchdog("b", budget_seconds=5, when_late="abandon")(nothing)))
    everything = {"budget_seconds": 5, "retries": Retries(), "breaker": Breaker("all", state=MemoryState())}
    bench("watchdog_async_us_median", median_async_us(watchdog("later", **everything)(nothing_later)))  # type: ignore[arg-type]
    bench("watchdog_us_median", median_us(watchdog("all", **everything)(nothing)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
