"""Numbers to pixels: scales, round ticks, and points thinned without losing their extremes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Linear from `low`..`high` to `start`..`end`, which may run downwards.

    >>> Scale(0, 10, 100, 0)(2.5)
    75.0
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, *, most: int = 5) -> tuple[float, ...]:
    """At most `most` + 1 multiples of 1, 2 or 5 times a power of ten that span `low`..`high`, ends included.

    >>> ticks(0.03, 0.97)
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        raise ValueError(f"ticks of {low}..{high}: give two finite numbers, the lower first")
    if high == low:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    step = tick_step((high - low) / most)
    while (count := _above(high, step) - _below(low, step)) > most:
        step = tick_step(step * 1.01)
    first = _below(low, step)
    decimals = max(0, -math.floor(math.log10(step)))
    return tuple(round((first + i) * step, decimals) + 0.0 for i in range(count + 1))


def tick_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _below(value: float, step: float) -> int:
    return math.floor(value / step + 1e-9)


def _above(value: float, step: float) -> int:
    return math.ceil(value / step - 1e-9)


def tick_label(value: float, step: float) -> str:
    """As many decimals as the step has.

    >>> tick_label(0.4, 0.2), tick_label(20000, 5000), tick_label(-1, 0.5)
    ('0.4', '20k', '−1.0')
    """
    sign = "−" if value < 0 else ""
    size = abs(value)
    if step >= 1000 and size >= 1000:
        return f"{sign}{size / 1000:g}k"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if not size:
        decimals = min(decimals, 1)
    elif decimals > 4:
        return f"{sign}{size:.0e}"
    return f"{sign}{size:.{decimals}f}"


def finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def thin(points: Sequence[Point], *, most: int = 240) -> list[Point]:
    """At most `most` points: lowest and highest of each of equal runs, in order, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    runs = max(1, (most - 2) // 2)
    kept = [points[0]]
    inner = points[1:-1]
    for run in range(runs):
        part = inner[run * len(inner) // runs : (run + 1) * len(inner) // runs]
        if part:
            ends = {min(range(len(part)), key=lambda i: part[i][1]), max(range(len(part)), key=lambda i: part[i][1])}
            kept += [part[i] for i in sorted(ends)]
    return [*kept, points[-1]]


def moving_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Mean of the `window` points around each point (an odd number); fewer at the ends, and as many on either side.

    >>> moving_mean([(0, 0.0), (1, 3.0), (2, 6.0), (3, 0.0)], 3)
    [(0, 0.0), (1, 3.0), (2, 3.0), (3, 0.0)]
    """
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    means = []
    for index, (x, _) in enumerate(points):
        half = min((window - 1) // 2, index, len(points) - 1 - index)
        means.append((x, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return means


def shares(weights: Sequence[float], *, least: float) -> list[float]:
    """Shares of a width in proportion to `weights`, none below `least`; they add up to 1.

    >>> [round(share, 3) for share in shares([700, 100, 10], least=0.15)]
    [0.7, 0.15, 0.15]
    """
    least = min(least, 1 / len(weights))
    small = {i for i in range(len(weights)) if not sum(weights) or weights[i] / sum(weights) < least}
    while True:
        rest = sum(w for i, w in enumerate(weights) if i not in small)
        left = 1 - least * len(small)
        more = {i for i, w in enumerate(weights) if i not in small and rest and w / rest * left < least}
        if not more:
            break
        small |= more
    if len(small) == len(weights):
        return [1 / len(weights)] * len(weights)
    return [least if i in small else w / rest * left for i, w in enumerate(weights)]
