"""Milliseconds of `stepforge doctor`: `python tests/benchmarks/doctor.py`.

What it does, in a new process each time, beyond what every command imports; and the whole command, of which the
interpreter and the command line are the most. For scale: what importing one of the packages takes that it judges.
On a machine that is busy the processor's time says more than the clock's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 11
LOOK = """
import time
import stepforge.cli._app
started, used = time.perf_counter(), time.process_time()
from stepforge.installation.health import parts
from stepforge.installation.versions import differences
parts(), differences()
print((time.perf_counter() - started) * 1e3, (time.process_time() - used) * 1e3)
"""


def main() -> None:
    """Print a figure a line; the last is the one with a target (50)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])}

    def whole(*command: str) -> float:
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], env=environment, check=False, capture_output=True)
            times.append((time.perf_counter() - started) * 1e3)
        return statistics.median(times)

    def look() -> tuple[float, float]:
        run = subprocess.run([sys.executable, "-c", LOOK], env=environment, check=True, capture_output=True, text=True)
        clock, processor = run.stdout.split()
        return float(clock), float(processor)

    print(f"BENCH interpreter_ms {whole('-c', 'pass'):.0f} ms")
    print(f"BENCH import_botocore_ms {whole('-c', 'import botocore.session'):.0f} ms")
    print(f"BENCH doctor_command_ms {whole('-m', 'stepforge.cli', 'doctor'):.0f} ms")
    looks = [look() for _ in range(REPEATS)]
    print(f"BENCH doctor_processor_ms {statistics.median(processor for _, processor in looks):.1f} ms")
    print(f"BENCH doctor_ms {statistics.median(clock for clock, _ in looks):.1f} ms")


if __name__ == "__main__":
    main()
