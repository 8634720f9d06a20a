"""The champion gate: is the challenger better than what serves now? Numbers in, verdict with reasons out."""

from __future__ import annotations

from typing import get_args

from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import Decoding, EvaluationReport, Interval

METRIC = "accepted"


def compare(
    challenger: EvaluationReport, champion: EvaluationReport | None, *, champion_arn: str | None = None
) -> Comparison:
    """Better means: on no test split worse than the champion, and on at least one better, greedy or sampled.

    Worse and better are meant by 95 % intervals that do not touch, so a difference that could be chance decides
    nothing. `differences` maps `split/decoding` to the difference of the means of `accepted`, in [-1, 1].
    """
    if champion is None and champion_arn is not None:
        reason = "not comparable: the champion was not registered by stepforge, so it has no evaluation"
        return Comparison(better=False, champion=champion_arn, reasons=(reason,))
    if champion is None:
        return Comparison(better=True, reasons=("there is no champion in the group: the first model stands alone",))
    if challenger.model_sha256 == champion.model_sha256:
        return Comparison(better=False, champion=champion_arn, reasons=("the champion is this very model",))
    ours, theirs = _scores(challenger), _scores(champion)
    reasons: list[str] = []
    missing = sorted(set(theirs) - set(ours))
    if missing:
        reasons.append(f"not comparable: the challenger was not evaluated on {', '.join(missing)}")
    if challenger.manifest_sha256 != champion.manifest_sha256:
        reasons.append(
            "the two were evaluated on different test data: the intervals cover that, a paired test would not"
        )
    worse = better = False
    for key in sorted(set(ours) & set(theirs)):
        a, b = ours[key], theirs[key]
        if b.above(a):
            worse = True
            reasons.append(f"worse on {key}: {_show(a)} against {_show(b)}")
        elif a.above(b):
            better = True
            reasons.append(f"better on {key}: {_show(a)} against {_show(b)}")
    if not worse and not better:
        reasons.append("no difference that the intervals support")
    return Comparison(
        better=better and not worse and not missing,
        champion=champion_arn,
        reasons=tuple(reasons),
        differences={key: round(ours[key].mean - theirs[key].mean, 6) for key in sorted(set(ours) & set(theirs))},
    )


def _scores(report: EvaluationReport) -> dict[str, Interval]:
    return {
        f"{score.split}/{score.decoding}": score.value
        for score in report.scores
        if score.metric == METRIC and score.split in TEST_SPLITS and score.decoding in get_args(Decoding)
    }


def _show(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
