"""Seconds of a synth of all environments, checks included, in a new process: `python tests/benchmarks/synth.py`.

Warm: the wheels of the layer are here and Node.js has been started once before.
"""

from __future__ import annotations

import os
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


def synth_seconds() -> float:
    silent = {f"JSII_SILENCE_WARNING_{what}_NODE_VERSION": "1" for what in ("DEPRECATED", "UNTESTED")}
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "sdk", "jobs"))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, f"{folder}/cdk.out"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": paths, **silent},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - started


def main() -> None:
    """Print the best of a few; the target is 15."""
    print(f"BENCH synth_seconds {min(synth_seconds() for _ in range(REPEATS + 1)):.1f} s")


if __name__ == "__main__":
    main()
