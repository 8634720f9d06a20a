"""Scores in a version's model card, so that a list of versions reads no evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from stepforge.contracts.reports import Interval, Score, Scored

_NOTES = re.compile(r"95 % interval \[(-?[\d.]+), (-?[\d.]+)\] over (\d+) records")


def metrics_of(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Metrics of a card: the mean as it is, the ends of its interval to four digits."""
    return [
        {"name": f"{s.split} {s.decoding} {s.metric}", "type": "number", "value": s.value.mean,
         "notes": f"95 % interval [{s.value.low:.4f}, {s.value.high:.4f}] over {s.value.count} records"}
        for s in scores
    ]  # fmt: skip


def content_of(card: dict[str, Any]) -> dict[str, Any]:
    """What a described package's card says of its evaluation; nothing where somebody else wrote the card."""
    try:
        found: dict[str, Any] = json.loads(card["ModelCardContent"])["evaluation_details"][0]
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def scores_of(card: dict[str, Any]) -> Scored | None:
    """The scores that `metrics_of` wrote; None where there are none, or others."""
    try:
        metrics = content_of(card)["metric_groups"][0]["metric_data"]
        return Scored(scores=tuple(map(_score, metrics))) if metrics else None
    except (KeyError, IndexError, TypeError, ValueError, ValidationError):
        return None


def _score(metric: dict[str, Any]) -> Score:
    split, decoding, name = metric["name"].split(" ", 2)
    noted = _NOTES.fullmatch(metric["notes"])
    if noted is None:
        raise ValueError(f"the metric {metric['name']!r} has other notes: {metric['notes']!r}")
    value = Interval(mean=metric["value"], low=float(noted[1]), high=float(noted[2]), count=int(noted[3]))
    return Score(split=split, decoding=decoding, metric=name, value=value)  # type: ignore[arg-type]
