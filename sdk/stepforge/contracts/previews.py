"""Completions that people look at: a line of rows.ndjson, and the good and bad examples chosen from such lines."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from stepforge.contracts.base import Contract
from stepforge.contracts.records import Split
from stepforge.contracts.reports import Decoding

PREVIEWS = "previews.json"
PREVIEW_FOLDER = "previews"


class CompletionRow(BaseModel):
    """A line of rows.ndjson: one completion of one record. Fields that are not named here are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    record: str
    split: Split
    decoding: Decoding = "greedy"
    prompt: str = ""
    completion: str
    accepted: bool
    reward: float = 0.0
    partial: float = 0.0
    failed_rules: tuple[str, ...] = ()
    reason: str = ""
    """Why the completion could not be read; empty where it could."""


class Preview(Contract):
    """An entry of previews.json: a good or bad output, with a fragment where the domain can draw it."""

    record: str
    split: Split
    decoding: Decoding = "greedy"
    accepted: bool
    prompt: str = ""
    completion: str
    failed_rules: tuple[str, ...] = ()
    reason: str = ""
    file: str | None = None
    """Path of an HTML fragment in the same artifact, such as `previews/0.html`."""


def preview_of(row: CompletionRow, *, file: str | None = None) -> Preview:
    return Preview(file=file, **{name: getattr(row, name) for name in Preview.model_fields if name != "file"})


def choose(rows: Iterable[CompletionRow], *, good: int = 6, bad: int = 6, seed: int = 0) -> list[CompletionRow]:
    """Up to `good` accepted and then up to `bad` refused completions, of different records where there are enough.

    Seeded. Good ones take turns by split; bad ones by what went wrong first and, within that, by split, so that a
    common failure does not crowd out a rare one. Greedy completions come first: they are what an endpoint answers.
    """
    accepted: dict[Any, list[CompletionRow]] = defaultdict(list)
    refused: dict[Any, list[CompletionRow]] = defaultdict(list)
    for row in _shuffled(rows, seed):
        if row.accepted:
            accepted[row.split].append(row)
        else:
            refused[_cause(row)].append(row)
    by_turns = {cause: _take_turns(_by_split(group), len(group)) for cause, group in refused.items()}
    return _distinct(accepted, good) + _distinct(by_turns, bad)


def _shuffled(rows: Iterable[CompletionRow], seed: int) -> list[CompletionRow]:
    order = sorted(rows, key=lambda row: (row.record, row.decoding, row.completion))
    random.Random(seed).shuffle(order)
    return sorted(order, key=lambda row: row.decoding != "greedy")


def _cause(row: CompletionRow) -> str:
    if row.reason or not row.failed_rules:
        return ""
    return row.failed_rules[0]


def _by_split(rows: Sequence[CompletionRow]) -> dict[Any, list[CompletionRow]]:
    groups: dict[Any, list[CompletionRow]] = defaultdict(list)
    for row in rows:
        groups[row.split].append(row)
    return groups


def _distinct(groups: dict[Any, list[CompletionRow]], count: int) -> list[CompletionRow]:
    """By turns, every record once before any record twice."""
    total = sum(len(group) for group in groups.values())
    seen: set[str] = set()
    first: list[CompletionRow] = []
    again: list[CompletionRow] = []
    for row in _take_turns(groups, total):
        (again if row.record in seen else first).append(row)
        seen.add(row.record)
    return (first + again)[:count]


def _take_turns(groups: dict[Any, list[CompletionRow]], count: int) -> list[CompletionRow]:
    """One of each group in the order of their names, then the next of each."""
    ordered = [groups[name] for name in sorted(groups)]
    longest = max(map(len, ordered), default=0)
    return [group[turn] for turn in range(longest) for group in ordered if turn < len(group)][:count]
