"""Which way to a better model pays, by how much, how surely, and why. A question in, a verdict out; nothing is called.

1. What may not be launched is refused with its reasons: privacy, latency, budget, a model that ends within the horizon.
2. Beliefs about the gains of all arms are updated by what was measured on the same items.
3. Each arm's net value has a distribution; arms are compared by mean - aversion x CVaR, and staying is worth 0.
4. A pilot comes first where its information is expected to be worth more than it costs.

Not covered: taxes, exchange rates, and what a competitor does. Launches themselves are in `stepforge.finetune`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from stepforge.contracts.base import digest
from stepforge.contracts.decisions import PRIVACY, Arm, Criterion, Decision, JudgedArm, Question, Range
from stepforge.economics._belief import Belief
from stepforge.economics._numbers import STANDARD
from stepforge.economics._paired import difference
from stepforge.economics._pilots import expected_noise, measurement, worth
from stepforge.economics._sensitivity import swings
from stepforge.economics._value import Offer, Stakes, break_even, cvar, draws, moments, score, spread
from stepforge.economics._words import sentence_of
from stepforge.economics.catalogue import Catalogue
from stepforge.economics.criteria import Advisor, added_usd, pooled
from stepforge.economics.experience import Experience
from stepforge.economics.quotes import quoted

DRAWS = 500


@dataclass(frozen=True)
class Case:
    """A question with its prices, its beliefs and its refusals: all that is computed with."""

    question: Question
    stakes: Stakes
    belief: Belief
    offers: Mapping[str, Offer]
    refusals: Mapping[str, tuple[str, ...]]

    @property
    def possible(self) -> dict[str, Offer]:
        return {name: offer for name, offer in self.offers.items() if not self.refusals[name]}


def decide(
    question: Question,
    *,
    catalogue: Catalogue | None = None,
    experience: Experience | None = None,
    advisors: Sequence[Advisor] = (),
) -> Decision:
    """The verdict on a question. The same arguments give the same verdict.

    `catalogue` supplies prices and dates that the question leaves out, `experience` the priors, `advisors` criteria.
    Raises UnknownPrice for a price that nobody gave, UnknownName for a model that the catalogue does not have.
    """
    catalogue = catalogue or Catalogue.load()
    priced, warnings = quoted(question, catalogue)
    criteria = pooled(question, advisors)
    case = _case(priced, catalogue, experience or Experience(), criteria)
    arms = {arm.name: arm for arm in priced.arms}
    judged = [_judged(case, arms[name], criteria) for name in case.offers]
    judged.sort(key=lambda one: (bool(one.refusals), -one.score_usd, one.name))
    best = next((one for one in judged if not one.refusals and one.score_usd > 0), None)
    pilot = _pilot(judged, priced)
    action: Literal["launch", "pilot", "stay"] = "pilot" if pilot else "launch" if best else "stay"
    chosen = pilot or best
    shown = chosen or next((one for one in judged if not one.refusals), None)
    case_swings = swings(case.offers[shown.name], case.stakes, *_believed(case, shown.name)) if shown else ()
    return Decision(
        question=question.name,
        question_sha256=digest(question),
        asked=question.today,
        action=action,
        arm=chosen.name if chosen else None,
        sentence=sentence_of(action, chosen, tuple(judged), case_swings, priced),
        arms=tuple(judged),
        horizon_months=question.horizon_months,
        swings=case_swings,
        swings_of=shown.name if shown else None,
        warnings=warnings,
        criteria=tuple(
            f"{one.name}: {one.weight_usd:,.0f} USD{f' ({one.reason})' if one.reason else ''}" for one in criteria
        ),
    )


def _case(question: Question, catalogue: Catalogue, experience: Experience, criteria: Sequence[Criterion]) -> Case:
    offers, refusals = {}, {}
    for arm in question.arms:
        months = months_until(question.today, arm.shuts_down, question.horizon_months)
        offers[arm.name] = Offer.of(
            arm, months=months, discount_year=question.discount_year, criteria_usd=added_usd(criteria, arm.name)
        )
        refusals[arm.name] = _refusals(arm, question, catalogue, offers[arm.name])
    priors = {arm.name: arm.gain or experience.prior(arm.method) for arm in question.arms}
    belief = Belief.of(priors, doubt=question.prior_doubt, correlation=question.gain_correlation)
    for arm in question.arms:
        for value, variance in _measurements(arm, question, belief):
            belief = belief.observed(arm.name, value, variance)
    return Case(question, Stakes.of(question), belief, offers, refusals)


def _measurements(arm: Arm, question: Question, belief: Belief) -> list[tuple[float, float]]:
    """Value and variance of what was measured of one arm: the whole of it, or its pilot where there is no more."""
    if arm.scores is not None:
        found = difference(arm.scores, question.base_scores, question.item_groups)
        return [(found.mean, found.variance)]
    if arm.pilot is not None and arm.pilot.scores is not None:
        found = difference(arm.pilot.scores, question.base_scores, question.item_groups)
        return [measurement(arm.pilot, found, belief, arm.name)]
    return []


def months_until(today: date, end: date | None, horizon: int) -> int:
    """Whole months that a model serves, at most the horizon.

    >>> months_until(date(2026, 11, 22), date(2027, 1, 14), 12)
    1
    """
    if end is None:
        return horizon
    months = (end.year - today.year) * 12 + end.month - today.month - (end.day < today.day)
    return max(0, min(horizon, months))


def _refusals(arm: Arm, question: Question, catalogue: Catalogue, offer: Offer) -> tuple[str, ...]:
    """Every reason why this arm may not be launched, whatever it is worth."""
    limits, reasons = question.constraints, []
    if arm.model is not None:
        reasons += catalogue.refusals(arm.model, arm.method, question.today, teacher=arm.teacher)
    if arm.shuts_down is not None and arm.shuts_down <= question.today:
        reasons.append(f"its base model shut down on {arm.shuts_down}")
    elif arm.shuts_down is not None and offer.months < question.horizon_months and limits.on_shutdown == "refuse":
        reasons.append(
            f"its base model shuts down on {arm.shuts_down}, within the horizon of {question.horizon_months} months: "
            f'shorten the horizon, or set constraints.on_shutdown = "cut" to count its value until then'
        )
    if PRIVACY.index(arm.privacy) < PRIVACY.index(limits.privacy):
        reasons.append(f"its privacy is {arm.privacy!r}, and {limits.privacy!r} is required")
    if limits.latency_ms is not None and arm.latency_ms is None:
        reasons.append(f"its latency is not known, and {limits.latency_ms:g} ms is the limit: measure it")
    elif limits.latency_ms is not None and arm.latency_ms is not None and arm.latency_ms > limits.latency_ms:
        reasons.append(f"it takes {arm.latency_ms:g} ms, and {limits.latency_ms:g} ms is the limit")
    if limits.budget_usd is not None and offer.fixed_usd > limits.budget_usd:
        reasons.append(f"it costs {offer.fixed_usd:,.2f} USD at once, and the budget is {limits.budget_usd:,.2f}")
    return tuple(reasons)


def _believed(case: Case, name: str) -> tuple[float, float]:
    """Mean and variance of an arm's gain."""
    return case.belief.mean(name), max(0.0, case.belief.variance(name))


def _judged(case: Case, arm: Arm, criteria: Sequence[Criterion]) -> JudgedArm:
    offer, risk = case.offers[arm.name], case.question.risk
    mean, variance = _believed(case, arm.name)
    values = draws(offer, case.stakes, mean, variance, DRAWS)
    _, low, high = spread(values)
    expected, _ = moments(offer, case.stakes, mean, variance)
    loss = cvar(values, risk.tail)
    measured: Literal["no", "pilot", "whole"] = "no"
    if arm.scores is not None:
        measured = "whole"
    elif arm.pilot is not None and arm.pilot.scores is not None:
        measured = "pilot"
    pilot_worth = None
    if arm.pilot is not None and measured == "no" and not case.refusals[arm.name]:
        noise = expected_noise(arm.pilot, case.question.base_scores, case.belief, arm.name)
        pilot_worth = worth(arm.name, noise, case.belief, case.possible, case.stakes, risk)
    width = STANDARD.inv_cdf(0.9) * variance**0.5
    return JudgedArm(
        name=arm.name,
        method=arm.method,
        refusals=case.refusals[arm.name],
        months=offer.months,
        net_usd=Range(mean=expected, low=low, high=high),
        pays_probability=sum(value > 0 for value in values) / len(values),
        cvar_usd=loss,
        score_usd=score(expected, loss, risk),
        gain=Range(mean=mean, low=mean - width, high=mean + width),
        measured=measured,
        fixed_usd=offer.fixed_usd,
        break_even_requests=break_even(offer, case.stakes, mean),
        expected_requests=case.stakes.requests_month * offer.months,
        pilot_usd=arm.pilot.usd if arm.pilot is not None and measured == "no" else None,
        pilot_worth_usd=pilot_worth,
        criteria_usd=added_usd(criteria, arm.name),
    )


def _pilot(judged: Sequence[JudgedArm], question: Question) -> JudgedArm | None:
    """The pilot whose information is worth most beyond its price, if any is worth its price."""
    budget = question.constraints.budget_usd
    offered = [
        (one.pilot_worth_usd - one.pilot_usd, one)
        for one in judged
        if one.pilot_worth_usd is not None and one.pilot_usd is not None and (budget is None or one.pilot_usd <= budget)
    ]
    surplus, best = max(offered, key=lambda pair: (pair[0], pair[1].name), default=(0.0, None))
    return best if surplus > 0 else None
