"""The evaluator as a policy: it decides, buys the pilot that it asks for, and is asked again."""

from __future__ import annotations

from datetime import date

from stepforge.contracts.decisions import (
    Amount,
    Arm,
    Constraints,
    Decision,
    FixedCosts,
    Gain,
    Method,
    Pilot,
    Question,
)
from stepforge.economics.decide import decide
from tests.benchmarks.finetune.baselines import Move
from tests.benchmarks.finetune.worlds import Seen, SeenArm, World

TODAY = date(2026, 1, 1)
METHOD: dict[str, Method] = {"prompt": "prompt", "sft": "sft", "rft": "rft", "managed": "managed", "own": "own"}


def question(seen: Seen, scores: dict[str, tuple[float, ...]]) -> Question:
    """What is seen, as the evaluator is asked. A model that ends within the horizon is worth something until then."""
    return Question(
        name="world",
        today=TODAY,
        horizon_months=seen.horizon_months,
        discount_year=seen.discount_year,
        requests_month=Amount(mean=seen.requests_month, relative_sd=seen.requests_relative_sd),
        quality_usd=Amount(mean=seen.quality_usd),
        base_request_usd=seen.base_request_usd,
        base_scores=seen.base_scores,
        arms=tuple(_arm(arm, scores.get(arm.name)) for arm in seen.arms),
        constraints=Constraints(on_shutdown="cut"),
    )


def _arm(arm: SeenArm, scores: tuple[float, ...] | None) -> Arm:
    end = None if arm.months_left is None else _month(arm.months_left)
    return Arm(
        name=arm.name,
        method=METHOD[arm.name],
        fixed=FixedCosts(training_usd=arm.fixed_usd, relative_sd=arm.fixed_relative_sd),
        request_usd=arm.request_usd,
        request_relative_sd=arm.request_relative_sd,
        month_usd=arm.month_usd,
        retrains=arm.retrains,
        failure_rate=arm.failure_rate,
        gain=Gain(mean=arm.gain_mean, sd=arm.gain_sd),
        pilot=Pilot(usd=arm.pilot_usd, fidelity=arm.pilot_fidelity, fidelity_sd=arm.pilot_fidelity_sd, scores=scores),
        shuts_down=end,
    )


def _month(count: int) -> date:
    return date(TODAY.year + count // 12, TODAY.month + count % 12, 1)


def run(world: World) -> tuple[Move, Decision]:
    """The move, and the last verdict."""
    scores: dict[str, tuple[float, ...]] = {}
    while True:
        verdict = decide(question(world.seen, scores))
        if verdict.action != "pilot" or verdict.arm is None:
            return Move(verdict.arm, tuple(scores)), verdict
        scores[verdict.arm] = world.pilot(verdict.arm)


def ours(world: World) -> Move:
    return run(world)[0]
