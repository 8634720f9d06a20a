"""Moments of clipped normals, and draws that are the same for the same question. Pure; the standard library alone."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from statistics import NormalDist

STANDARD = NormalDist()
INTERVAL = (0.1, 0.9)
"""Quantiles of the intervals that a verdict shows: they hold 80 %."""


def clipped(mean: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """Mean and variance of a normal that is cut to `low`..`high`, its tails piled up at the ends.

    >>> [round(x, 4) for x in clipped(0.0, 1.0, 0.0, 1e9)]  # half normal, half zero
    [0.3989, 0.3408]
    """
    if sd <= 0:
        at = min(high, max(low, mean))
        return at, 0.0
    a, b = (low - mean) / sd, (high - mean) / sd
    below, above = STANDARD.cdf(a), 1 - STANDARD.cdf(b)
    inside = max(0.0, 1 - below - above)
    pa, pb = STANDARD.pdf(a), STANDARD.pdf(b)
    # Moments of the standardised part inside the limits; a limit that is far out adds nothing.
    first = pa - pb
    second = inside + (a * pa if abs(a) < 40 else 0.0) - (b * pb if abs(b) < 40 else 0.0)
    expected = low * below + high * above + mean * inside + sd * first
    square = low**2 * below + high**2 * above + mean**2 * inside + 2 * mean * sd * first + sd**2 * second
    return expected, max(0.0, square - expected**2)


@lru_cache(maxsize=512)
def normals(name: str, count: int) -> tuple[float, ...]:
    """`count` standard normals, one of each of as many equally likely slices, in an order that `name` decides.

    Stratified, so that a mean over them is exact to a few tenths of a per cent; an input keeps its draws whatever other
    inputs there are.
    """
    values = [STANDARD.inv_cdf((i + 0.5) / count) for i in range(count)]
    random.Random(name).shuffle(values)
    return tuple(values)


def lognormal_sigma(relative_sd: float) -> float:
    """Sigma of a lognormal factor with mean 1 and this relative standard deviation."""
    return math.sqrt(math.log(1 + relative_sd**2))


@lru_cache(maxsize=512)
def factors(name: str, relative_sd: float, count: int) -> tuple[float, ...]:
    """Draws of a lognormal factor with mean 1."""
    sigma = lognormal_sigma(relative_sd)
    return tuple(math.exp(sigma * z - sigma * sigma / 2) for z in normals(name, count))


def quantile(ordered: list[float], share: float) -> float:
    """Of values in ascending order, linear between neighbours.

    >>> quantile([0.0, 1.0, 2.0], 0.25)
    0.5
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def factor_quantile(relative_sd: float, share: float) -> float:
    """Quantile of a lognormal factor with mean 1."""
    sigma = lognormal_sigma(relative_sd)
    return math.exp(sigma * STANDARD.inv_cdf(share) - sigma * sigma / 2)
