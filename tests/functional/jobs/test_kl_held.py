"""One seed of the committed proof that a KL is held, run again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.benchmarks.kl_held.run import run_seed
from tests.benchmarks.kl_held.table import CAP, NEEDED, TARGET, cell, highest


@pytest.mark.slow
def test_stock_settings_leave_the_cap_behind_and_a_held_kl_does_not_at_the_same_reward(tmp_path: Path) -> None:
    rows = run_seed(0, tmp_path, ("stock", "held"))
    assert highest(rows, "stock")[0] > CAP
    assert highest(rows, "held")[0] <= CAP
    stock, held = (cell(rows, arm, TARGET)[0].mean() for arm in ("stock", "held"))
    assert held >= NEEDED * stock
