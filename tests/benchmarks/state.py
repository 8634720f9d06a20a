"""Milliseconds to see that the local AWS is up and ready: `python tests/benchmarks/state.py`.

The peer is `os.stat` of the files that the look has to notice a change of; nothing that notices can be faster.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 50


def milliseconds(function: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print a figure a line; the last is the whole look, as each command takes it."""
    with tempfile.TemporaryDirectory(prefix="stepforge-bench-") as home:
        os.environ["STEPFORGE_HOME"] = home
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])
        from stepforge.local import down, ensure_up
        from stepforge.local.environment import ready

        try:
            ready()
            watched = [path for place in ("sdk", "jobs", "lambdas") for path in (ROOT / place).rglob("*.py")]
            print(
                f"BENCH stat_{len(watched)}_files_ms {milliseconds(lambda: [os.stat(path) for path in watched]):.2f} ms"
            )
            print(f"BENCH ensure_up_ms {milliseconds(ensure_up):.2f} ms")
            print(f"BENCH local_state_ms {milliseconds(ready):.2f} ms")
        finally:
            down()


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "sdk"), str(ROOT / "jobs")]
    main()
