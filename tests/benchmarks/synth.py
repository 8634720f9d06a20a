"""Seconds of a synth of all environments, checks included, in a new process: `python tests/benchmarks/synth.py`.

Warm: the wheels of the layer are here and Node.js has been started once before.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 3
_PROGRAM = """
import sys
from cdk.app import build
from cdk.settings import deployable
build(*deployable(), outdir=sys.argv[1]).synth()
"""


def synth_seconds() -> tuple[float, float]:
    """By the clock, and of the processor: the second hardly depends on what else runs here."""
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "sdk", "jobs"))
    with tempfile.TemporaryDirectory() as folder:
        started, used = time.perf_counter(), _processor_seconds()
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, f"{folder}/cdk.out"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - started, _processor_seconds() - used


def _processor_seconds() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the best of a few; the target is 15."""
    clock, processor = (min(figures) for figures in zip(*(synth_seconds() for _ in range(REPEATS + 1)), strict=True))
    print(f"BENCH synth_processor_seconds {processor:.1f} s")
    print(f"BENCH synth_seconds {clock:.1f} s")


if __name__ == "__main__":
    main()
