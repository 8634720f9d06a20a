"""Measured against predicted, once an arm is there. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.decisions import Decision, Outcome, Range
from stepforge.economics._numbers import STANDARD
from stepforge.economics._paired import difference
from stepforge.economics._words import usd
from stepforge.errors import InvalidInput, UnknownName


def measured(
    verdict: Decision,
    arm: str,
    *,
    scores: Sequence[float],
    base_scores: Sequence[float],
    groups: Sequence[str] | None = None,
    fixed_usd: float | None = None,
    local_fake: bool = False,
) -> Outcome:
    """What came of an arm, beside what the verdict said of it. Put it into `Experience.adding`, and the priors learn.

    `scores` and `base_scores` are of the same items in one order, each in [0, 1]; `fixed_usd` is what the arm has cost
    in the end. The outcome of a `local_fake` is kept, and no prior learns from it.

    Raises UnknownName for an arm that the verdict does not judge, InvalidInput for scores of other items.
    """
    if len(scores) != len(base_scores) or len(scores) < 2:
        raise InvalidInput(
            f"{len(scores)} scores of {arm!r} and {len(base_scores)} of the base: both for the same items, 2 or more"
        )
    judged = {one.name: one for one in verdict.arms}
    if arm not in judged:
        raise UnknownName("arm of the verdict", arm, judged)
    predicted = judged[arm]
    found = difference(scores, base_scores, groups)
    width = STANDARD.inv_cdf(0.9) * found.sd
    inside = predicted.gain.low <= found.mean <= predicted.gain.high
    parts = [
        f"{arm} gains {found.mean:+.3f} (80 %: {found.mean - width:+.3f} to {found.mean + width:+.3f}); predicted was "
        f"{predicted.gain.mean:+.3f}, {predicted.gain.low:+.3f} to {predicted.gain.high:+.3f}: "
        f"{'within' if inside else 'outside'} the prediction"
    ]
    if fixed_usd is not None:
        parts.append(f"it cost {usd(fixed_usd)}, and {usd(predicted.fixed_usd)} was predicted")
    return Outcome(
        question_sha256=verdict.question_sha256,
        arm=arm,
        method=predicted.method,
        predicted_gain=predicted.gain,
        measured_gain=Range(mean=found.mean, low=found.mean - width, high=found.mean + width),
        measured_gain_sd=min(1.0, found.sd),
        predicted_fixed_usd=predicted.fixed_usd,
        measured_fixed_usd=fixed_usd,
        gain_inside=inside,
        local_fake=local_fake,
        sentence="; ".join(parts) + ".",
    )
