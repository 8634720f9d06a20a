"""A page of committed figures is what its rows say: a change of what it is built with is seen where it is made."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("page", ["held_out", "kl_held", "reproduction", "whole_run"])
def test_the_page_is_what_its_rows_say(page: str) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{page}.table", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
