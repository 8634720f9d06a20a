"""Seconds of `python -c 'import stepforge'`: `python tests/benchmarks/import.py`.

Peers, in the same run: boto3, and sagemaker where it is installed. The bare interpreter is printed for scale.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 9


def import_seconds(statement: str) -> float:
    """The best of a few new processes: what the machine can do when nothing else runs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])}
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main() -> None:
    """Print a figure a line; the last is the one with a target (.15)."""
    print(f"BENCH interpreter_seconds {import_seconds('pass'):.3f} s")
    ours = import_seconds("import stepforge")
    for peer in ("boto3", "sagemaker"):
        if importlib.util.find_spec(peer) is not None:
            theirs = import_seconds(f"import {peer}")
            print(f"BENCH {peer}_import_seconds {theirs:.3f} s")
            print(f"BENCH {peer}_import_ratio {theirs / ours:.1f} times")
    print(f"BENCH client_import_seconds {import_seconds('from stepforge import Client'):.3f} s")
    print(f"BENCH import_seconds {ours:.3f} s")


if __name__ == "__main__":
    main()
