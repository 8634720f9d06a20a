"""Percentile bootstrap over records, seeded: intervals of means and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepforge.contracts.reports import Interval

LEVEL = 0.95
CHUNK = 1 << 22


def bootstrap_means(values: Sequence[float], *, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` samples with replacement. Equal counts and seeds draw equal records: they are paired."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not data.size:
        raise ValueError(f"a bootstrap needs one value or more for each record, given shape {data.shape}")
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, CHUNK // data.size)
    parts = []
    for start in range(0, resamples, rows):
        indices = generator.integers(0, data.size, size=(min(rows, resamples - start), data.size))
        parts.append(data[indices].mean(axis=1))
    return np.concatenate(parts)


def interval(values: Sequence[float], *, resamples: int = 2_000, seed: int = 0) -> Interval:
    """Mean with a 95 % percentile interval; `values` holds one number for each record."""
    means = bootstrap_means(values, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high), count=len(values))


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], *, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Mean of `values - baseline` over the same records in the same order, with its 95 % interval."""
    if len(values) != len(baseline):
        raise ValueError(f"a paired comparison needs the same records: {len(values)} against {len(baseline)} values")
    return interval([a - b for a, b in zip(values, baseline, strict=True)], resamples=resamples, seed=seed)


def pass_at_k(count: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, from `right` of `count` (arXiv 2107.03374)."""
    if not 0 <= right <= count or not 1 <= k <= count:
        raise ValueError(f"pass@{k} of {right} right in {count}: k and right must not exceed the count")
    if count - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(count - right + 1, count + 1)))
