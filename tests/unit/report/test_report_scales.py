"""Numbers to pixels: round ticks, known points at known places, nothing lost by thinning."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepforge.report.scales import Scale, finite, moving_mean, shares, thin, tick_label, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.0, 4.63, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
        (-0.04, 0.046, (-0.04, -0.02, 0.0, 0.02, 0.04, 0.06)),
        (0.0, 700.0, (0.0, 200.0, 400.0, 600.0, 800.0)),
        (0.0, 0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
    ids=["share", "loss", "around-zero", "steps", "constant"],
)
def test_ticks_are_these(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_evenly_spaced_and_span_the_values(low: float, width: float) -> None:
    found = ticks(low, low + width)
    step = (found[-1] - found[0]) / (len(found) - 1)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert 2 <= len(found) <= 6
    assert min(abs(mantissa - round_) for round_ in (1, 2, 5, 10)) < 1e-3
    assert found[0] <= low + step * 1e-6
    assert found[-1] >= low + width - step * 1e-6


def test_ticks_of_what_is_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        ticks(0.0, math.inf)


def test_a_scale_that_runs_downwards_puts_the_low_end_at_the_bottom() -> None:
    scale = Scale(0, 5, 200, 20)
    assert [scale(0), scale(2.5), scale(5)] == [200, 110, 20]


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.05, "0.25"),
        (3, 1, "3"),
        (-0.5, 0.5, "−0.5"),
        (15000, 5000, "15k"),
        (0, 5000, "0"),
        (2e-6, 1e-6, "2e-06"),
        (0.0, 1e-6, "0.0"),
    ],
)
def test_a_label_has_the_decimals_of_its_step(value: float, step: float, text: str) -> None:
    assert tick_label(value, step) == text


def test_thinning_keeps_ends_order_and_every_spike() -> None:
    points = [(float(x), random.Random(x).random()) for x in range(5000)]
    points[3217] = (3217.0, 99.0)
    points[1200] = (1200.0, -99.0)
    kept = thin(points, most=240)
    assert len(kept) <= 240
    assert kept == sorted(kept)
    assert {points[0], points[-1], points[3217], points[1200]} <= set(kept)


def test_few_points_are_not_thinned() -> None:
    points = [(0.0, 1.0), (1.0, 2.0)]
    assert thin(points) == points


def test_the_moving_mean_of_a_line_is_the_line() -> None:
    line = [(float(x), 3.0 * x) for x in range(50)]
    assert [y for _, y in moving_mean(line, 9)] == pytest.approx([y for _, y in line])


def test_what_is_not_finite_is_left_out() -> None:
    assert finite([(1, math.nan), (2, 0.5), (3, math.inf)]) == [(2, 0.5)]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
def test_shares_add_up_and_none_is_too_narrow(weights: list[int]) -> None:
    found = shares(weights, least=0.16)
    assert sum(found) == pytest.approx(1)
    assert min(found) >= min(0.16, 1 / len(weights)) - 1e-9
