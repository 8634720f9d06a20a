"""What is believed about the gains of all arms together, and how a measurement of one changes it. Pure.

A multivariate normal. Its covariance has three parts: each arm's own spread, a part that arms share (where one way of
tuning works, others are likelier to), and a doubt about the priors themselves, which multiplies all their means by one
factor of mean 1: whoever wrote them may have been too hopeful about everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepforge.contracts.decisions import Gain


@dataclass(frozen=True)
class Belief:
    """Means and covariance of the gains, by arm."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, priors: Mapping[str, Gain], *, doubt: float, correlation: float) -> Belief:
        names = tuple(priors)
        means = tuple(priors[name].mean for name in names)
        sds = [priors[name].sd for name in names]
        covariance = tuple(
            tuple(
                sds[i] * sds[j] * (1.0 if i == j else correlation) + doubt**2 * means[i] * means[j]
                for j in range(len(names))
            )
            for i in range(len(names))
        )
        return cls(names, means, covariance)

    def mean(self, name: str) -> float:
        return self.means[self.names.index(name)]

    def variance(self, name: str) -> float:
        i = self.names.index(name)
        return self.covariance[i][i]

    def observed(self, name: str, value: float, variance: float) -> Belief:
        """After a measurement of one arm's gain with this noise: the conjugate (Kalman) update."""
        i = self.names.index(name)
        column = [row[i] for row in self.covariance]
        total = column[i] + variance
        if total <= 0:
            return self
        weights = [c / total for c in column]
        surprise = value - self.means[i]
        means = tuple(m + w * surprise for m, w in zip(self.means, weights, strict=True))
        covariance = tuple(
            tuple(row[j] - weights[k] * column[j] for j in range(len(column))) for k, row in enumerate(self.covariance)
        )
        return Belief(self.names, means, covariance)
