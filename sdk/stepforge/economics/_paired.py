"""The difference of two models on the same items, and how sure it is. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Mean of the items' differences, and the variance of that mean."""

    mean: float
    variance: float
    items: int

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)


def difference(scores: Sequence[float], base: Sequence[float], groups: Sequence[str] | None = None) -> Difference:
    """The paired difference, with the variance that a bootstrap over items (or over whole groups) converges to.

    The limit of the bootstrap of a mean has a closed form, so nothing is drawn; `bootstrap` draws it, and a test holds
    one to the other. Two items more are counted, one each way, because a handful of equal items does not make a result
    certain. Without groups, neighbours whose differences go together count as fewer items (see `inflation`).

    Raises ValueError for unequal counts.
    """
    each = [a - b for a, b in zip(scores, base, strict=True)]
    count = len(each)
    mean = sum(each) / count
    if groups is not None:
        sums: dict[str, float] = {}
        for group, value in zip(groups, each, strict=True):
            sums[group] = sums.get(group, 0.0) + value - mean
        # A few groups tell little about each other: the usual correction for their number.
        correction = len(sums) / max(1, len(sums) - 1)
        variance = (correction * sum(value * value for value in sums.values()) + 2) / count**2
        return Difference(mean, variance, count)
    squares = sum((value - mean) ** 2 for value in each)
    variance = (squares * inflation(each) + 2) / (count + 2) / count
    return Difference(mean, variance, count)


def inflation(each: Sequence[float]) -> float:
    """By how much the variance of the mean exceeds that of independent items, at least 1; Bartlett's weights.

    Items of one source usually stand together in a file and fail together. Where they do not, this is 1 but for noise,
    which is why a sum that two standard errors of noise explain counts for nothing.
    Newey and West 1987, Econometrica 55(3).
    """
    count = len(each)
    lags = min(20, count // 4)
    mean = sum(each) / count
    centred = [value - mean for value in each]
    power = sum(value * value for value in centred)
    if lags < 1 or power == 0:
        return 1.0
    total, noise = 0.0, 0.0
    for lag in range(1, lags + 1):
        weight = 1 - lag / (lags + 1)
        total += 2 * weight * sum(a * b for a, b in zip(centred[lag:], centred, strict=False)) / power
        noise += 4 * weight * weight / count
    return 1 + total if total > 2 * math.sqrt(noise) else 1.0


def bootstrap(
    scores: Sequence[float],
    base: Sequence[float],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> list[float]:
    """Sorted means of the paired difference over resampled items, or over resampled groups of items."""
    each = [a - b for a, b in zip(scores, base, strict=True)]
    families: dict[str, list[float]] = {}
    for name, value in zip(groups or map(str, range(len(each))), each, strict=True):
        families.setdefault(name, []).append(value)
    parts = [(sum(values), len(values)) for values in families.values()]
    rng = random.Random(seed)
    means = []
    for _ in range(resamples):
        drawn = rng.choices(parts, k=len(parts))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    return sorted(means)
