"""One of many processes that call through one breaker: `python prober.py URL PROCESSES ROUNDS`.

In each round all of them call at once, when the circuit's time is over; what happened is counted in Redis.
"""

from __future__ import annotations

import sys
import time

from redis import Redis

from stepforge.errors import CircuitOpen
from stepforge.watchdog import Breaker, RedisState, watchdog

OPEN_SECONDS = 0.1


def main(url: str, processes: int, rounds: int) -> None:
    redis = Redis.from_url(url)
    breaker = Breaker("shared", failures=1, open_seconds=OPEN_SECONDS, state=RedisState(url))

    def together(where: str) -> None:
        redis.incr(where)
        while int(redis.get(where)) < processes:  # type: ignore[arg-type]
            time.sleep(0.001)

    for number in range(rounds):

        @watchdog("probe", budget_seconds=5, breaker=breaker)
        def probe(number: int = number) -> None:
            redis.incr(f"inside:{number}")
            time.sleep(0.03)
            raise ConnectionError

        together(f"before:{number}")
        try:
            probe()
        except CircuitOpen:
            redis.incr(f"refused:{number}")
        except ConnectionError:
            pass
        together(f"after:{number}")
        time.sleep(OPEN_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
