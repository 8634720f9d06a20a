"""Seconds of whole `stepforge run train --domain facial --dry-run`s: `python tests/benchmarks/plan.py`.

In a home of its own: the first start (with deployment), a start of what is deployed, and with the server up.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 7


def main() -> None:
    """Print a figure a line; the last is the one with a target (1.0)."""
    with tempfile.TemporaryDirectory(prefix="stepforge-bench-") as home:
        paths = os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])
        environment = {**os.environ, "PYTHONPATH": paths, "STEPFORGE_HOME": home}

        def seconds(*arguments: str) -> float:
            started = time.perf_counter()
            command = [sys.executable, "-m", "stepforge.cli", *arguments]
            subprocess.run(command, env=environment, check=True, cwd=home, capture_output=True)
            return time.perf_counter() - started

        plan = ("run", "train", "--domain", "facial", "--dry-run")
        try:
            print(f"BENCH plan_first_start_seconds {seconds(*plan):.2f} s")
            seconds("local", "down")
            print(f"BENCH plan_server_down_seconds {seconds(*plan):.2f} s")
            print(f"BENCH help_seconds {min(seconds('--help') for _ in range(REPEATS)):.2f} s")
            times = [seconds(*plan) for _ in range(REPEATS)]
            print(f"BENCH plan_seconds_best {min(times):.2f} s")
            print(f"BENCH plan_seconds {statistics.median(times):.2f} s")
        finally:
            seconds("local", "down")


if __name__ == "__main__":
    main()
