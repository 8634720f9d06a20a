"""How long a secret takes: `python tests/benchmarks/secrets_client.py`, against a local AWS in a home of its own.

Cold: not cached, on a connection that is open. First: the first call of a client, with its connection. For scale: how
long boto3 alone takes, and a get while the server is gone and a stale value is served.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "sdk"), str(ROOT / "jobs")]

from stepforge.local import down, ensure_up  # noqa: E402
from stepforge.secrets import Secrets  # noqa: E402
from stepforge.testing import FakeClock  # noqa: E402

REPEATS, CACHED = 200, 20_000


def milliseconds(function: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append((time.perf_counter() - started) * 1e3)
    return sorted(times)


def main() -> None:
    """Print a figure a line; the last two have a target (200 ms)."""
    logging.getLogger("stepforge").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="stepforge-bench-") as home:
        os.environ["STEPFORGE_HOME"] = home
        aws = ensure_up()
        try:
            client = aws.client("secretsmanager")
            arn = client.create_secret(Name="bench", SecretString="value")["ARN"]
            first = []
            for _ in range(15):
                fresh = Secrets(aws.client("secretsmanager"))
                first += milliseconds(lambda fresh=fresh: fresh.get(arn), 1)  # type: ignore[misc]
            print(f"BENCH boto3_get_secret_ms {statistics.median(_boto3(client, arn)):.2f} ms")
            clock = FakeClock()
            secrets = Secrets(client, fresh_seconds=60, clock=clock)
            started = time.perf_counter()
            for _ in range(CACHED):
                secrets.get(arn)
            print(f"BENCH secret_cached_us {(time.perf_counter() - started) / CACHED * 1e6:.2f} us")

            def due() -> None:
                clock.advance(60)
                secrets.get(arn)

            cold = milliseconds(due)
        finally:
            down()
        gone = milliseconds(due, 20)
        print(f"BENCH secret_stale_ms_median {statistics.median(gone):.2f} ms")
        print(f"BENCH secret_stale_ms_max {gone[-1]:.1f} ms")
        print(f"BENCH secret_cold_ms_median {statistics.median(cold):.2f} ms")
        print(f"BENCH secret_cold_ms_p99 {cold[int(len(cold) * 0.99)]:.1f} ms")
        print(f"BENCH secret_first_ms_max {max(first):.1f} ms")


def _boto3(client: object, arn: str) -> list[float]:
    return milliseconds(lambda: client.get_secret_value(SecretId=arn))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
