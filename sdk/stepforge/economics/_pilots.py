"""What a pilot would be worth before it is bought: the expected value of its information. Pure.

Raiffa and Schlaifer 1961: the mean, over what the pilot may show, of the best choice's score after it, less the best
choice's score now. Staying with the base, worth 0, is always a choice. A pilot of one arm also tells about the others,
through the belief's covariance. One pilot is looked ahead at a time; after it the question is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from stepforge.contracts.decisions import Pilot, Risk
from stepforge.economics._belief import Belief
from stepforge.economics._numbers import STANDARD
from stepforge.economics._paired import Difference
from stepforge.economics._value import Offer, Stakes, moments, normal_score

PAIRED_CORRELATION = 0.3
"""Assumed of two models' scores on one item, before there are any."""
SLICES = 15


def measurement(pilot: Pilot, found: Difference, belief: Belief, name: str) -> tuple[float, float]:
    """What a pilot says of the whole arm's gain: value and variance.

    The pilot's gain is `fidelity` times the whole one's, and the fidelity is itself uncertain, by the more dollars the
    larger the gain is.
    """
    gain = found.mean / pilot.fidelity
    noise = found.variance / pilot.fidelity**2
    # The gain that scales the fidelity's error is not known either: the measured one, drawn towards the prior.
    weight = belief.variance(name) / (belief.variance(name) + noise) if noise else 1.0
    likely = belief.mean(name) + weight * (gain - belief.mean(name))
    return gain, noise + (pilot.fidelity_sd / pilot.fidelity) ** 2 * (likely**2 + (1 - weight) * belief.variance(name))


def expected_noise(pilot: Pilot, base_scores: Sequence[float], belief: Belief, name: str) -> float:
    """Variance of the measurement that a pilot would be."""
    count = len(base_scores)
    mean = (sum(base_scores) + 0.5) / (count + 1)
    spread = (sum((score - mean) ** 2 for score in base_scores) + 0.25) / (count + 1)
    each = 2 * (1 - PAIRED_CORRELATION) * spread / count
    second = belief.mean(name) ** 2 + belief.variance(name)
    return (each + pilot.fidelity_sd**2 * second) / pilot.fidelity**2


def worth(
    name: str,
    noise: float,
    belief: Belief,
    offers: Mapping[str, Offer],
    stakes: Stakes,
    risk: Risk,
) -> float:
    """Expected value of the information of a measurement of this arm's gain, in dollars, its price not taken off."""
    index = belief.names.index(name)
    column = [row[index] for row in belief.covariance]
    total = column[index] + noise
    step = math.sqrt(total) if total > 0 else 0.0
    shifts = {other: c / step if step else 0.0 for other, c in zip(belief.names, column, strict=True)}
    left = {other: max(0.0, belief.covariance[i][i] - shifts[other] ** 2) for i, other in enumerate(belief.names)}

    def best(z: float) -> float:
        scores = [0.0]
        for other, offer in offers.items():
            mean = belief.mean(other) + shifts[other] * z
            scores.append(normal_score(*moments(offer, stakes, mean, left[other]), risk))
        return max(scores)

    after = sum(best(z) for z in slices()) / SLICES
    return max(0.0, after - best_now(belief, offers, stakes, risk))


def best_now(belief: Belief, offers: Mapping[str, Offer], stakes: Stakes, risk: Risk) -> float:
    scores = [
        normal_score(*moments(offer, stakes, belief.mean(name), belief.variance(name)), risk)
        for name, offer in offers.items()
    ]
    return max(0.0, *scores) if scores else 0.0


@lru_cache(maxsize=1)
def slices() -> tuple[float, ...]:
    """Means of a standard normal within equally likely slices."""
    edges = [-math.inf, *(STANDARD.inv_cdf(i / SLICES) for i in range(1, SLICES)), math.inf]
    heights = [0.0, *(STANDARD.pdf(edge) for edge in edges[1:-1]), 0.0]
    return tuple((a - b) * SLICES for a, b in pairwise(heights))
