"""`stepforge finetune arms`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, get_args

from stepforge.cli._decide import load
from stepforge.cli._finetune_cloud import read_records
from stepforge.cli._output import emit
from stepforge.contracts.decisions import Question
from stepforge.economics.catalogue import Provider
from stepforge.economics.decide import months_until
from stepforge.economics.question_file import Draft, arm_table, begun, written
from stepforge.errors import InvalidInput, UnknownName
from stepforge.finetune.arms import Asked, Proposal, Proposed, propose
from stepforge.finetune.spec import Method

MOST_ARMS = 40
MOST_MONTHS = 120
T = TypeVar("T", bound=str)


@dataclass(frozen=True)
class Wish:
    """The options, as they were typed."""

    base: str | None
    providers: list[str]
    methods: list[str]
    needed_until: date | None
    epochs: int
    hours: float | None
    answer_tokens: int | None
    system: str | None
    people_usd: float | None


def arms(
    data: Path, out: Path, *, domain: str, question: Path | None, own: list[Path], wish: Wish, as_json: bool
) -> None:
    """Raises InvalidInput where no arm is left: then nothing is written."""
    if out.exists() and (question is None or out.resolve() != question.resolve()):
        raise InvalidInput(
            f"{out} exists already: give another --out, or complete the question that it is with --question {out}"
        )
    catalogue, now = load(own), _today()
    draft = None if question is None else Draft.read(question)
    head = None if question is None or draft is None else draft.head(question)
    asked = _asked(wish, now, head, given=set() if draft is None else set(draft.plain))
    proposal = propose(read_records(data, domain), catalogue, asked)
    there = set() if draft is None else draft.names
    new = [one for one in proposal.proposed if one.arm.name not in there]
    if len(new) + len(there) > MOST_ARMS:
        raise InvalidInput(
            f"{len(new)} arms beside {len(there)} are more than the {MOST_ARMS} of a question: choose with --provider "
            "and --method"
        )
    if not new and not there:
        reasons = "\n".join(_left_out(proposal)) or "no row of the catalogue is tuned so (`stepforge catalogue`)"
        raise InvalidInput(f"no arm is left, so nothing is written:\n{reasons}")
    fields = begun(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", data.stem).strip("-._")[:80] or "records",
        today=asked.since or now,
        horizon_months=asked.horizon_months,
        base_request_usd=proposal.base_request_usd,
    )
    tables = [(one.about, arm_table(one.arm, people_known=wish.people_usd is not None)) for one in new]
    text, fill_in = written(out, draft, fields, tables)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)
    already = [one.arm.name for one in proposal.proposed if one.arm.name in there]
    plain = {
        "file": str(out),
        "horizon_months": asked.horizon_months,
        "needed_until": asked.needed_until,
        "arms": [_plain(one) for one in new],
        "already": already,
        "left_out": [
            {
                "model": one.model,
                "method": one.method,
                "teacher": one.teacher,
                "reason": one.reason,
                "advice": one.advice,
            }
            for one in proposal.left_out
        ],
        "fill_in": fill_in,
        "notes": (notes := _notes(head) if new else []),
    }
    until = "" if asked.needed_until is None else f", base models needed until {asked.needed_until}"
    lines = [
        f"{out}: {len(new)} {'arm' if len(new) == 1 else 'arms'} for {asked.horizon_months} months{until}",
        *(f"arm {one.arm.name}: {one.about}" for one in new),
        *(f"there already: {name}" for name in already),
        *_left_out(proposal),
        *notes,
        *(f"fill in {line}" for line in fill_in),
    ]
    command = shlex.join(["stepforge", "finetune", "decide", str(out), *(f"--catalogue={path}" for path in own)])
    lines.append(f"next: {'fill in what is marked, then ' * bool(fill_in)}{command}")
    emit(plain, as_json=as_json, text="\n".join(lines))


def _asked(wish: Wish, now: date, head: Question | None, *, given: set[str]) -> Asked:
    since = head.today if head is not None and "today" in given else now
    until = wish.needed_until
    if until is not None and until <= now:
        raise InvalidInput(f"--needed-until {until} is not after today, {now}: give a later day")
    if head is not None and "horizon_months" in given:
        horizon = head.horizon_months
    else:
        until = until or _year_after(now)
        horizon = max(1, months_until(since, until, MOST_MONTHS))
    if wish.hours is not None and not 0 < wish.hours <= 10_000:
        raise InvalidInput(f"--hours {wish.hours:g}: give more than 0 and at most 10,000")
    return Asked(
        today=max(since, now),
        horizon_months=horizon,
        needed_until=until,
        since=since,
        cut=head is not None and head.constraints.on_shutdown == "cut",
        providers=_known("provider", wish.providers, get_args(Provider)),
        methods=_known("method", wish.methods, get_args(Method)),
        epochs=wish.epochs,
        hours=None if wish.hours is None else Decimal(str(wish.hours)),
        answer_tokens=wish.answer_tokens,
        system=wish.system,
        base=wish.base,
        people_usd=wish.people_usd,
    )


def _known(what: str, given: Sequence[str], known: tuple[T, ...]) -> tuple[T, ...]:
    """Raises UnknownName for what is none of `known`."""
    for one in given:
        if one not in known:
            raise UnknownName(what, one, known)
    return tuple(one for one in known if one in given)


def _today() -> date:
    return datetime.now(UTC).date()


def _year_after(day: date) -> date:
    leap = (day.month, day.day) == (2, 29)
    return date(day.year + 1, 3, 1) if leap else day.replace(year=day.year + 1)


def _left_out(proposal: Proposal) -> list[str]:
    lines = [f"left out {one.name}: {one.reason}" for one in proposal.left_out]
    return lines + [f"where a price is not known: {one}" for one in {o.advice for o in proposal.left_out if o.advice}]


def _notes(head: Question | None) -> list[str]:
    """What the question limits and no row of the catalogue says."""
    if head is None:
        return []
    limited = [name for name in ("privacy", "latency_ms") if getattr(head.constraints, name) not in (None, "any")]
    return [
        f"the question limits {name}, which no row has: give {name} in the arms that keep to it" for name in limited
    ]


def _plain(one: Proposed) -> dict[str, Any]:
    low, high = one.training_usd or (None, None)
    return {
        "name": one.arm.name,
        "method": one.arm.method,
        "model": one.arm.model,
        "teacher": one.arm.teacher,
        "tokens": None if one.tokens is None else one.tokens.model_dump(),
        "training_usd": None if low is None else {"low": float(low), "high": float(high or low)},
    }
