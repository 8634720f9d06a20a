"""The champion gate: is the challenger better than what serves now? Numbers in, verdict with reasons out.

Where both were evaluated on the same records, each record is compared with itself: a paired bootstrap, which sees
differences that two intervals side by side cannot. Otherwise the intervals have to lie apart.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from stepforge.contracts.previews import CompletionRow
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import Decoding, EvaluationReport, Interval

METRIC = "accepted"
FEWEST_PAIRS = 20
"""Fewer records tell too little about their spread: a bootstrap of them would be too sure."""
LEVEL = 0.95
RESAMPLES = 4_000
MOST_DRAWS = 10_000_000
"""A handler has seconds: of very many records fewer resamples are drawn, whose intervals are narrow anyway."""

Cells = Mapping[str, Mapping[str, float]]
"""`split/decoding` to record to the mean of `accepted` over its completions."""


def cells_of(rows: Iterable[CompletionRow]) -> dict[str, dict[str, float]]:
    """What each record scored, out of the rows of an evaluation."""
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.split in TEST_SPLITS:
            found[f"{row.split}/{row.decoding}"][row.record].append(row.accepted)
    return {key: {record: sum(a) / len(a) for record, a in records.items()} for key, records in found.items()}


def compare(
    challenger: EvaluationReport,
    champion: EvaluationReport | None,
    *,
    champion_arn: str | None = None,
    cells: tuple[Cells, Cells] | None = None,
) -> Comparison:
    """Better means: on no test split worse than the champion, and on at least one better, greedy or sampled.

    With `cells`, the challenger's and the champion's, records that both were asked decide by the interval of their
    mean difference; all of these hold together at 95 % (Bonferroni). A cell without such records, and all where there
    are none, decide by 95 % intervals that do not touch. `differences` maps `split/decoding` to the difference of the
    means of `accepted`, in [-1, 1].
    """
    if champion is None and champion_arn is not None:
        reason = "not comparable: the champion was not registered by stepforge, so it has no evaluation"
        return Comparison(better=False, champion=champion_arn, reasons=(reason,))
    if champion is None:
        return Comparison(better=True, reasons=("there is no champion in the group: the first model stands alone",))
    if challenger.model_sha256 == champion.model_sha256:
        return Comparison(better=False, champion=champion_arn, reasons=("the champion is this very model",))
    ours, theirs = _scores(challenger), _scores(champion)
    shared = sorted(set(ours) & set(theirs))
    pairs = {} if cells is None else _pairs(shared, *cells)
    reasons: list[str] = []
    missing = sorted(set(theirs) - set(ours))
    if missing:
        reasons.append(f"not comparable: the challenger was not evaluated on {', '.join(missing)}")
    if challenger.manifest_sha256 != champion.manifest_sha256 and set(pairs) != set(shared):
        reasons.append(
            "the two were evaluated on different test data: the intervals cover that, a paired test would not"
        )
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    paired = {key: mean_interval(values, level=level) for key, values in pairs.items()}
    worse = better = False
    for key in shared:
        a, b = ours[key], theirs[key]
        apart = (a.above(b), b.above(a))
        how = f"{_show(a)} against {_show(b)}"
        if (difference := paired.get(key)) is not None:
            apart = (difference.low > 0, difference.high < 0)
            how = f"{a.mean:.3f} against {b.mean:.3f}, by {_show(difference)} on the same {difference.count} records"
        better, worse = better or apart[0], worse or apart[1]
        if any(apart):
            reasons.append(f"{'better' if apart[0] else 'worse'} on {key}: {how}")
    if not worse and not better:
        reasons.append(f"no difference that the {'paired ' if paired else ''}intervals support")
    return Comparison(
        better=better and not worse and not missing,
        champion=champion_arn,
        reasons=tuple(reasons),
        differences={key: round(ours[key].mean - theirs[key].mean, 6) for key in shared},
        paired=paired,
    )


def mean_interval(
    values: Sequence[float], *, level: float = LEVEL, resamples: int | None = None, seed: int = 0
) -> Interval:
    """Mean of one number for each record, such as a difference, with its percentile bootstrap interval over records.

    Seeded, and without numpy, which handlers do not have.

    >>> mean_interval([1.0] * 10).low
    1.0
    """
    count = len(values)
    resamples = resamples or max(1_000, min(RESAMPLES, MOST_DRAWS // count))
    draw = random.Random(seed).choices
    means = sorted(sum(draw(values, k=count)) / count for _ in range(resamples))
    tail = (1 - level) / 2
    return Interval(
        mean=sum(values) / count,
        low=means[int(tail * (resamples - 1))],
        high=means[-1 - int(tail * (resamples - 1))],
        count=count,
    )


def _pairs(keys: Iterable[str], ours: Cells, theirs: Cells) -> dict[str, list[float]]:
    """Differences by record of the cells whose records are the same; a subset would be a choice of records."""
    found = {}
    for key in keys:
        mine, other = ours.get(key, {}), theirs.get(key, {})
        if len(mine) >= FEWEST_PAIRS and set(mine) == set(other):
            found[key] = [mine[record] - other[record] for record in sorted(mine)]
    return found


def _scores(report: EvaluationReport) -> dict[str, Interval]:
    return {
        f"{score.split}/{score.decoding}": score.value
        for score in report.scores
        if score.metric == METRIC and score.split in TEST_SPLITS and score.decoding in get_args(Decoding)
    }


def _show(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
