"""Net value of one arm against staying with the base: a number, its moments, its distribution. Pure.

    NV = sum_t d^t [V (v g - (c - c0)) - m] - F (1 + retrains + failures)

over the months t in which the arm serves: V requests a month, v the worth of a unit of quality, g the gain, c and c0
dollars a request, m hosting and storage a month, F the fixed costs. V, v, c and F are quotes: lognormal factors of mean
1 stand for what they may be off by, and a training fails with a probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stepforge.contracts.decisions import Arm, Question, Risk
from stepforge.economics._numbers import STANDARD, clipped, factors, normals, quantile


@dataclass(frozen=True)
class Stakes:
    """What all arms of a question share."""

    requests_month: float
    requests_relative_sd: float
    quality_usd: float
    quality_relative_sd: float
    base_request_usd: float
    base_quality: float

    @classmethod
    def of(cls, question: Question) -> Stakes:
        scores = question.base_scores
        return cls(
            requests_month=question.requests_month.mean,
            requests_relative_sd=question.requests_month.relative_sd,
            quality_usd=question.quality_usd.mean,
            quality_relative_sd=question.quality_usd.relative_sd,
            base_request_usd=question.base_request_usd,
            # One item more, half right: ten right answers of ten leave room for a gain.
            base_quality=(sum(scores) + 0.5) / (len(scores) + 1),
        )


@dataclass(frozen=True)
class Offer:
    """One arm with all prices known."""

    name: str
    months: int
    discounted: float
    """Months, each worth what it is worth today."""
    fixed_usd: float
    fixed_relative_sd: float
    retrains: float
    failure_rate: float
    request_usd: float
    request_relative_sd: float
    month_usd: float
    criteria_usd: float = 0.0

    @classmethod
    def of(cls, arm: Arm, *, months: int, discount_year: float, criteria_usd: float = 0.0) -> Offer:
        """Raises ValueError for an arm without a price: the catalogue comes first."""
        if arm.request_usd is None or arm.fixed.training_usd is None:
            raise ValueError(f"arm {arm.name!r} has no price yet")
        return cls(
            name=arm.name,
            months=months,
            discounted=annuity(discount_year, months),
            fixed_usd=arm.fixed.total_usd,
            fixed_relative_sd=arm.fixed.relative_sd,
            retrains=arm.retrains,
            failure_rate=arm.failure_rate,
            request_usd=arm.request_usd,
            request_relative_sd=arm.request_relative_sd,
            month_usd=arm.month_usd or 0.0,
            criteria_usd=criteria_usd,
        )

    @property
    def trainings(self) -> float:
        """Expected number, failed ones too."""
        return 1 + self.retrains + self.failure_rate


def annuity(discount_year: float, months: int) -> float:
    """Sum of the discount factors at the end of each month.

    >>> annuity(0.0, 12), round(annuity(0.1, 12), 3)
    (12.0, 11.4)
    """
    return float(sum((1 + discount_year) ** (-month / 12) for month in range(1, months + 1)))


def net_value(
    offer: Offer,
    stakes: Stakes,
    gain: float,
    *,
    volume: float = 1.0,
    worth: float = 1.0,
    request: float = 1.0,
    fixed: float = 1.0,
    failures: float | None = None,
) -> float:
    """Dollars of today, with each quote times its factor. `failures` is their expected number where it is None."""
    gain = min(1 - stakes.base_quality, max(-stakes.base_quality, gain))
    each = stakes.quality_usd * worth * gain - (offer.request_usd * request - stakes.base_request_usd)
    running = offer.discounted * (stakes.requests_month * volume * each - offer.month_usd)
    trainings = 1 + offer.retrains + (offer.failure_rate if failures is None else failures)
    return running - offer.fixed_usd * fixed * trainings + offer.criteria_usd


def moments(offer: Offer, stakes: Stakes, mean: float, variance: float) -> tuple[float, float]:
    """Mean and standard deviation of the net value where the gain is a normal of this mean and variance, cut to fit."""
    gain, spread = clipped(mean, math.sqrt(variance), -stakes.base_quality, 1 - stakes.base_quality)
    worth = 1 + stakes.quality_relative_sd**2
    each = stakes.quality_usd * gain - (offer.request_usd - stakes.base_request_usd)
    each_variance = stakes.quality_usd**2 * ((spread + gain**2) * worth - gain**2)
    each_variance += (offer.request_usd * offer.request_relative_sd) ** 2
    volume = 1 + stakes.requests_relative_sd**2
    flow = (offer.discounted * stakes.requests_month) ** 2 * ((each_variance + each**2) * volume - each**2)
    certain = 1 + offer.retrains + offer.failure_rate
    failing = offer.failure_rate * (1 - offer.failure_rate)
    fixed = offer.fixed_usd**2 * (certain**2 * offer.fixed_relative_sd**2 + failing * (1 + offer.fixed_relative_sd**2))
    expected = offer.discounted * (stakes.requests_month * each - offer.month_usd) - offer.fixed_usd * certain
    return expected + offer.criteria_usd, math.sqrt(flow + fixed)


def draws(offer: Offer, stakes: Stakes, mean: float, variance: float, count: int) -> list[float]:
    """`count` net values, in ascending order, from the same random numbers for every arm.

    So an arm that is nowhere better than another is never worth more by the luck of its draws.
    """
    sd = math.sqrt(variance)
    gains = [mean + sd * z for z in normals("gain", count)]
    volumes = factors("requests", stakes.requests_relative_sd, count)
    worths = factors("worth", stakes.quality_relative_sd, count)
    requests = factors("request", offer.request_relative_sd, count)
    fixed = factors("fixed", offer.fixed_relative_sd, count)
    fails = STANDARD.inv_cdf(offer.failure_rate) if offer.failure_rate > 0 else -math.inf
    failed = [1.0 if z < fails else 0.0 for z in normals("failure", count)]
    low, high = -stakes.base_quality, 1 - stakes.base_quality
    per_request, saved = offer.request_usd, stakes.base_request_usd
    flow, certain = offer.discounted * stakes.requests_month, 1 + offer.retrains
    constant = offer.criteria_usd - offer.discounted * offer.month_usd
    return sorted(
        flow * u * (stakes.quality_usd * w * min(high, max(low, g)) - per_request * k + saved)
        - offer.fixed_usd * f * (certain + x)
        + constant
        for g, u, w, k, f, x in zip(gains, volumes, worths, requests, fixed, failed, strict=True)
    )


def cvar(ordered: Sequence[float], tail: float) -> float:
    """Mean loss in the worst `tail` of values in ascending order; negative where that is a gain.

    Rockafellar and Uryasev 2000. The value at the edge counts in part.

    >>> cvar([-10.0, 0.0, 5.0, 5.0], 0.5)
    5.0
    """
    weight = tail * len(ordered)
    whole = int(weight)
    total = sum(ordered[:whole])
    if whole < len(ordered):
        total += (weight - whole) * ordered[whole]
    return -total / weight


def score(mean: float, loss: float, risk: Risk) -> float:
    """(mean - aversion * CVaR) / (1 + aversion): a certain dollar is a dollar, and staying is 0."""
    return (mean - risk.aversion * loss) / (1 + risk.aversion)


def normal_score(mean: float, sd: float, risk: Risk) -> float:
    """`score` of a normal, in closed form."""
    depth = STANDARD.pdf(STANDARD.inv_cdf(risk.tail)) / risk.tail
    return mean - risk.aversion / (1 + risk.aversion) * depth * sd


def spread(ordered: list[float]) -> tuple[float, float, float]:
    """Mean, 10 % and 90 % quantile."""
    return sum(ordered) / len(ordered), quantile(ordered, 0.1), quantile(ordered, 0.9)


def break_even(offer: Offer, stakes: Stakes, gain: float) -> float | None:
    """Requests after which fixed costs and hosting are paid back; None where no number of them does.

    Not discounted: (F (1 + retrains + failures) + hosting) / (v g - (c - c0)).
    """
    each = stakes.quality_usd * gain - (offer.request_usd - stakes.base_request_usd)
    if each <= 0:
        return None
    requests = (offer.fixed_usd * offer.trainings + offer.months * offer.month_usd) / each
    return requests if math.isfinite(requests) else None
