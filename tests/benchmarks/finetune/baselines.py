"""Policies to compare the evaluator with. A policy looks at what is seen, may buy pilots, and names an arm or None.

They were committed with the worlds, before the evaluator. None of them imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.finetune.worlds import NORMAL, Seen, SeenArm, World


@dataclass(frozen=True)
class Move:
    """What a policy did: the arm it chose, None for staying, and the pilots it paid for."""

    choice: str | None
    piloted: tuple[str, ...] = ()


Policy = Callable[[World], Move]


def months(seen: Seen, arm: SeenArm) -> int:
    return seen.horizon_months if arm.months_left is None else min(seen.horizon_months, arm.months_left)


def discounted(seen: Seen, count: int) -> float:
    """Months, each worth what it is worth today."""
    return sum((1 + seen.discount_year) ** (-month / 12) for month in range(1, count + 1))


def net_value(seen: Seen, arm: SeenArm, gain: float) -> float:
    """Net value if every quote is right and the gain is this."""
    each = seen.quality_usd * gain - (arm.request_usd - seen.base_request_usd)
    running = discounted(seen, months(seen, arm)) * (seen.requests_month * each - arm.month_usd)
    return running - arm.fixed_usd * (1 + arm.retrains + arm.failure_rate)


def never(_world: World) -> Move:
    """Stay with the base, whatever is offered."""
    return Move(None)


def always(_world: World) -> Move:
    """Tune at a provider, because that is what one does."""
    return Move("sft")


def cheapest(world: World) -> Move:
    """The lowest bill over the horizon, quality aside; the base is among the offers."""
    return _best(world.seen, {arm.name: 0.0 for arm in world.seen.arms})


def highest(world: World) -> Move:
    """The highest expected score, cost aside."""
    return Move(max(world.seen.arms, key=lambda arm: arm.gain_mean).name)


def ruletree(world: World) -> Move:
    """A checklist of the usual kind: volume first, then what is at stake, then whether running one's own pays."""
    seen = world.seen
    quality = sum(seen.base_scores) / len(seen.base_scores)
    spend = seen.requests_month * seen.base_request_usd
    if seen.requests_month < 10_000:
        return Move(None)
    if quality > 0.85:
        return Move(None if spend < 500 else "sft")
    if seen.quality_usd < 0.01:
        return Move("own" if spend > 2_000 else None)
    if seen.requests_month < 30_000:
        return Move("prompt")
    return Move("own" if spend > 2_000 else "sft")


def prior(world: World) -> Move:
    """The highest expected net value by the priors, without a pilot."""
    return _best(world.seen, {arm.name: arm.gain_mean for arm in world.seen.arms})


def pilot(world: World) -> Move:
    """Try everything, weigh each result against its prior, take the highest expected net value."""
    seen, count = world.seen, len(world.seen.base_scores)
    gains = {}
    for arm in seen.arms:
        differences = [a - b for a, b in zip(world.pilot(arm.name), seen.base_scores, strict=True)]
        mean = sum(differences) / count
        # One pair more of each sign: no trial of a few items is free of noise.
        variance = (sum((d - mean) ** 2 for d in differences) + 2) / (count + 2) / count
        measured = mean / arm.pilot_fidelity
        noise = variance / arm.pilot_fidelity**2 + (arm.pilot_fidelity_sd / arm.pilot_fidelity * measured) ** 2
        weight = arm.gain_sd**2 / (arm.gain_sd**2 + noise)
        gains[arm.name] = arm.gain_mean + weight * (measured - arm.gain_mean)
    move = _best(seen, gains)
    return Move(move.choice, tuple(arm.name for arm in seen.arms))


def _best(seen: Seen, gains: dict[str, float]) -> Move:
    room = 1 - sum(seen.base_scores) / len(seen.base_scores)
    values = {arm.name: net_value(seen, arm, min(room, gains[arm.name])) for arm in seen.arms}
    name = max(values, key=lambda name: values[name])
    return Move(name if values[name] > 0 else None)


BASELINES: dict[str, Policy] = {
    "never": never,
    "always": always,
    "cheapest": cheapest,
    "highest": highest,
    "ruletree": ruletree,
    "prior": prior,
    "pilot": pilot,
}

Z_95 = NORMAL.inv_cdf(0.975)
