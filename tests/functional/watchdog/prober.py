"""Many processes that call through one breaker: `python prober.py URL PROCESSES ROUNDS`.

In each round all of them call at once, when the circuit's time is over; what happened is counted in Redis. They are
forks of one process that has used the breaker before.
"""

from __future__ import annotations

import os
import sys
import time

from redis import Redis

from stepforge.errors import CircuitOpen
from stepforge.watchdog import Breaker, RedisState, watchdog

OPEN_SECONDS = 0.1
WAIT_SECONDS = 20


def work(url: str, breaker: Breaker, processes: int, rounds: int) -> None:
    redis = Redis.from_url(url)

    def reaches(name: str, count: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while int(redis.get(name) or 0) < count:  # type: ignore[arg-type]
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} is {redis.get(name)!r} and not {count} after {WAIT_SECONDS} s")
            time.sleep(0.003)

    for number in range(rounds):

        @watchdog("probe", budget_seconds=60, breaker=breaker)
        def probe(number: int = number) -> None:
            redis.incr(f"inside:{number}")
            # It stays until all others were refused, however slow the machine is.
            reaches(f"refused:{number}", processes - 1)
            raise ConnectionError

        redis.incr(f"before:{number}")
        reaches(f"before:{number}", processes)
        try:
            probe()
        except CircuitOpen:
            redis.incr(f"refused:{number}")
        except ConnectionError:
            time.sleep(OPEN_SECONDS)
            redis.incr(f"over:{number}")
        reaches(f"over:{number}", 1)


def main(url: str, processes: int, rounds: int) -> None:
    breaker = Breaker("shared", failures=1, open_seconds=OPEN_SECONDS, state=RedisState(url))
    assert breaker.status == "open"
    children = []
    for _ in range(processes):
        if (child := os.fork()) == 0:
            work(url, breaker, processes, rounds)
            os._exit(0)
        children.append(child)
    if failed := [child for child in children if os.waitpid(child, 0)[1] != 0]:
        sys.exit(f"{len(failed)} processes failed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
