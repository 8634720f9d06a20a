"""A page of committed figures is what its rows say: a change of what it is built with is seen where it is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["held_out", "kl_held", "reproduction", "whole_run"])
def test_the_page_is_what_its_rows_say(page: str) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{page}.table", "--check"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("sdk", "jobs", "."))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
