"""Mean and variance of all values so far, in one pass and mergeable (Welford 1962; Chan, Golub and LeVeque 1979)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations.

    >>> both = Moments.of([1.0, 2.0]).merge(Moments.of([3.0]))
    >>> both.mean, both.std
    (2.0, 1.0)
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Moments:
        if not values:
            return cls()
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum((value - mean) ** 2 for value in values))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of values together; the order changes no more than the last bits."""
        count = self.count + other.count
        if not count:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.count / count
        return Moments(count, mean, self.squares + other.squares + gap * gap * self.count * other.count / count)

    @property
    def std(self) -> float:
        """With Bessel's correction; 0 below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, float]) -> Moments:
        return cls(int(state["count"]), state["mean"], state["squares"])
