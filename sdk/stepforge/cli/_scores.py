"""Held-out scores in lines: at the end of a run, and of what the registry holds."""

from __future__ import annotations

from typing import Any

from stepforge.cli._output import columns
from stepforge.contracts.names import group_domain
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, Interval, Scored
from stepforge.report.verdict import DECODINGS, SPLIT_NAMES, cells, score
from stepforge.report.words import interval_text, percent, room_for_doubt


def plain(report: Scored | None) -> list[dict[str, Any]]:
    """A row for each split and decoding: the share of completions that every hard rule accepts, with its interval."""
    return [
        {"split": split, "decoding": decoding, "accepted": value.mean, "low": value.low, "high": value.high,
         "records": value.count}
        for split, decoding, value in ([] if report is None else cells(report))
    ]  # fmt: skip


def lines(report: EvaluationReport) -> list[str]:
    """A table of the scores, with what its numbers are."""
    rows = []
    for split in TEST_SPLITS:
        values = [score(report, split, decoding) for decoding in DECODINGS]
        if known := [value for value in values if value is not None]:
            rows.append((split, *map(_with_interval, values), known[0].count, SPLIT_NAMES[split].lower()))
    if not rows:
        return ["the evaluation holds no score of accepted completions on a test split"]
    head = columns(["ACCEPTED ON", *(name.upper() for name in DECODINGS), "RECORDS", ""], rows)
    notes = ["(share of answers that every hard rule accepts; 95 % intervals over the records)"]
    if doubt := room_for_doubt(value for _, _, value in cells(report)):
        notes.append(f"({doubt})")
    return [*head, *notes]


def solves_nothing(report: EvaluationReport) -> bool:
    """Whether no answer to a problem that had to be learnt was accepted: then there is nothing to approve."""
    learnt = [value.mean for split, _, value in cells(report) if split != "test_retained"]
    return bool(learnt) and not any(learnt)


def short(report: Scored | None) -> list[str]:
    """A cell for each test split: greedy and sampled, in percent."""
    found = []
    for split in TEST_SPLITS:
        values = [None if report is None else score(report, split, decoding) for decoding in DECODINGS]
        found.append(" / ".join("-" if value is None else f"{value.mean * 100:.1f}" for value in values))
    return found


def against_champion(comparison: Comparison) -> str:
    """The champion gate's decision in a sentence."""
    reasons = "; ".join(comparison.reasons)
    if comparison.champion is None:
        return f"champion: none to compare with ({reasons})"
    name = reference(comparison.champion)
    return f"champion: {'better' if comparison.better else 'not better'} than {name} ({reasons})"


def reference(arn: str) -> str:
    """What the CLI calls the package: `facial/3`."""
    group, _, version = arn.rpartition(":")[2].partition("/")[2].rpartition("/")
    return f"{group_domain(group)}/{version}"


def _with_interval(value: Interval | None) -> str:
    return "-" if value is None else f"{percent(value.mean)} ({interval_text(value)})"
