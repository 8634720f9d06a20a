"""Intervals against the exact distribution of a binomial mean, pass@k against counting."""

from __future__ import annotations

from itertools import accumulate, combinations
from math import comb

import pytest

from stepforge_jobs.evaluation.bootstrap import interval, paired_difference, pass_at_k


def binomial_quantile(count: int, share: float, level: float) -> int:
    masses = (comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1))
    return next(k for k, mass in enumerate(accumulate(masses)) if mass >= level)


@pytest.mark.parametrize(("count", "right"), [(40, 10), (200, 150), (25, 1)])
def test_the_interval_of_a_share_has_the_binomials_quantiles(count: int, right: int) -> None:
    found = interval([1.0] * right + [0.0] * (count - right), resamples=20_000)
    assert found.mean == right / count
    for bound, level in ((found.low, 0.025), (found.high, 0.975)):
        assert abs(bound * count - binomial_quantile(count, right / count, level)) <= 1


def test_the_interval_of_a_constant_is_a_point_and_equal_seeds_give_equal_intervals() -> None:
    assert interval([0.3] * 9).low == interval([0.3] * 9).high == pytest.approx(0.3)
    values = [0.1 * i for i in range(30)]
    assert interval(values, seed=4) == interval(values, seed=4) != interval(values, seed=5)


def test_pairing_removes_what_two_models_have_in_common() -> None:
    hard = [i / 50 for i in range(50)]
    better = [value + 0.05 for value in hard]
    difference = paired_difference(better, hard)
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)
    assert interval(better).low < interval(hard).high


def test_a_comparison_of_different_records_is_refused() -> None:
    with pytest.raises(ValueError, match="same records: 2 against 3"):
        paired_difference([1.0, 0.0], [1.0, 0.0, 1.0])


@pytest.mark.parametrize(("count", "right"), [(4, 0), (4, 1), (6, 3), (5, 5)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(count: int, right: int) -> None:
    samples = [i < right for i in range(count)]
    for k in range(1, count + 1):
        subsets = list(combinations(samples, k))
        assert pass_at_k(count, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
