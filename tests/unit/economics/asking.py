"""Questions for tests: a support bot that answers 100,000 requests a month, right in 60 of 100."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

from stepforge.contracts.decisions import Amount, Arm, FixedCosts, Gain, Pilot, Question

TODAY = date(2026, 11, 22)


def scores(quality: float, *, items: int = 200, seed: int = 0) -> tuple[float, ...]:
    """Exactly this share of right answers, in a random order."""
    right = round(quality * items)
    values = [1.0] * right + [0.0] * (items - right)
    random.Random(seed).shuffle(values)
    return tuple(values)


def improved(base: tuple[float, ...], gain: float) -> tuple[float, ...]:
    """As many wrong answers made right as the gain says."""
    left = round(gain * len(base))
    result = []
    for value in base:
        turn = value == 0 and left > 0
        left -= turn
        result.append(1.0 if turn else value)
    return tuple(result)


def arm(name: str = "sft", **changes: Any) -> Arm:
    given: dict[str, Any] = {
        "name": name,
        "method": "sft",
        "fixed": FixedCosts(training_usd=400, people_usd=600),
        "request_usd": 0.002,
        "gain": Gain(mean=0.08, sd=0.05),
    }
    return Arm.model_validate({**given, **changes})


def pilot(usd: float = 60, **changes: Any) -> Pilot:
    return Pilot(usd=usd, **changes)


def question(*arms: Arm, **changes: Any) -> Question:
    given: dict[str, Any] = {
        "name": "support bot",
        "today": TODAY,
        "horizon_months": 12,
        "requests_month": Amount(mean=100_000, relative_sd=0.2),
        "quality_usd": Amount(mean=0.02),
        "base_request_usd": 0.002,
        "base_scores": scores(0.6),
        "arms": arms or (arm(),),
    }
    return Question.model_validate({**given, **changes})
