"""`stepforge finetune decide` and `stepforge catalogue`."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

from stepforge.cli._output import emit, say, table
from stepforge.contracts.decisions import Question
from stepforge.economics.catalogue import Catalogue, ModelPrice, ModelRow
from stepforge.economics.catalogue_file import as_toml
from stepforge.economics.experience import Experience
from stepforge.economics.files import read_criteria, read_question
from stepforge.economics.grounds import Grounds
from stepforge.economics.price_list import look_up
from stepforge.economics.prices import PRICE_LIST_REGION
from stepforge.errors import EnvironmentUnavailable, InvalidInput


def asked(
    question: Path, catalogue: Catalogue, *, experience: Path | None, criteria: list[Path]
) -> tuple[Question, Grounds]:
    """A question and what its verdict rests on: the same for the command that says it and the one that acts on it."""
    found = read_question(question)
    advisors = [read_criteria(path, found) for path in criteria]
    grounds = Grounds.of(found, catalogue=catalogue, experience=_read(experience), advisors=advisors)
    return found, grounds


def _read(experience: Path | None) -> Experience:
    if experience is None:
        return Experience()
    if not experience.is_file():
        raise InvalidInput(
            f"there is no experience {str(experience)!r}: `stepforge finetune outcome` writes it after the first tune; "
            "until then leave --experience out"
        )
    return Experience.read(experience)


def decide(
    question: Path,
    own: list[Path],
    *,
    experience: Path | None,
    criteria: list[Path],
    page: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from stepforge.economics.show import tornado, verdict_markdown, verdict_text

    found, grounds = asked(question, load(own), experience=experience, criteria=criteria)
    verdict = grounds.verdict(found)
    emit(verdict.model_dump(mode="json"), as_json=as_json, text=verdict_text(verdict))
    drawn = plot if verdict.swings else None
    if plot is not None and drawn is None:
        say("no plot was written: every arm is refused")
    if plot is not None and drawn is not None:
        plot.write_text(tornado(verdict), encoding="utf-8")
        say(f"plot: {plot}")
    if page is not None:
        address = None if drawn is None else Path(os.path.relpath(drawn, page.parent)).as_posix()
        page.write_text(verdict_markdown(verdict, plot=address), encoding="utf-8")
        say(f"page: {page}")


def print_catalogue(model: str | None, own: list[Path], *, as_json: bool) -> None:
    catalogue = load(own)
    today = datetime.now(UTC).date()
    rows = list(catalogue.rows.values()) if model is None else [catalogue.row(model)]
    emit([row.model_dump(mode="json") for row in rows], as_json=as_json)
    if as_json:
        return
    if model is not None:
        print("\n".join(_about(rows[0])))
    else:
        table(["MODEL", "TUNED BY", "TRAINING", "SHUTS DOWN", "CHECKED"], [_short(row) for row in rows])
    stale = Catalogue({row.id: row for row in rows}).stale(today)
    if stale:
        say(f"({len(stale)} stale: {stale[0]}{'; ...' if len(stale) > 1 else ''})")


def refresh_catalogue(own: list[Path], *, ask: bool, out: Path | None, as_json: bool) -> None:
    """What ships with these files over it, and with `ask` the prices of AWS's list in it.

    Raises EnvironmentUnavailable where the list cannot be read; then nothing is written.
    """
    before, today = load(own), datetime.now(UTC).date()
    found, missing = _asked(before, today) if ask else (before, [])
    fresh = [
        f"{row.id}: {price.kind} is {_usd(price)}"
        for row in found.rows.values()
        for price in row.prices
        if price not in before.rows[row.id].prices
    ]
    if out is not None:
        out.write_text(as_toml(found), encoding="utf-8")
    stale = found.stale(today)
    lines = [*fresh, *missing, *(f"stale: {line}" for line in stale)]
    if ask:
        lines.append(f"{len(fresh)} prices were read, {len(missing)} were not: those stay as they are")
    if out is not None:
        lines.append(f"written: {out} (use it with --catalogue {out})")
    plain = {"fresh": fresh, "missing": missing, "stale": stale, "asked": ask}
    emit({**plain, "file": None if out is None else str(out)}, as_json=as_json, text="\n".join(lines))


def _asked(catalogue: Catalogue, today: date) -> tuple[Catalogue, list[str]]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=10, retries={"total_max_attempts": 2})
    session = boto3.Session()
    try:
        return catalogue.refreshed(look_up(session.client("pricing", PRICE_LIST_REGION, config=config)), today)
    except (BotoCoreError, ClientError) as error:
        raise EnvironmentUnavailable(
            f"AWS's price list was not read ({type(error).__name__}): no price is newer than before. It takes AWS "
            "credentials with pricing:GetProducts; or give newer rows with --catalogue"
        ) from error


def load(own: list[Path]) -> Catalogue:
    """What ships, with these files over it."""
    missing = [path for path in own if not path.is_file()]
    if missing:
        raise InvalidInput(f"there is no catalogue {str(missing[0])!r}: give a TOML file (docs/decision.md)")
    return Catalogue.load(*own)


def _short(row: ModelRow) -> tuple[str, ...]:
    training = [price for price in row.prices if price.kind in ("training_tokens", "training_hours")]
    return (
        row.id,
        ", ".join(row.tunable) or "-",
        "; ".join(_usd(price) for price in training) or "not known",
        _end(row),
        str(row.as_of),
    )


def _end(row: ModelRow) -> str:
    if row.shuts_down is not None:
        return str(row.shuts_down)
    return f"not before {row.not_before}" if row.not_before is not None else "not announced"


def _usd(price: ModelPrice) -> str:
    return f"{price.usd} USD / {price.unit}"


def _about(row: ModelRow) -> list[str]:
    limits = {key: value for key, value in row.limits.model_dump().items() if value is not None}
    return [
        f"{row.id}: {', '.join(row.capabilities)}",
        f"tuned by: {', '.join(row.tunable) or 'nothing'}"
        + (f" (launches until {row.launches_until})" if row.launches_until else ""),
        f"shuts down: {_end(row)}",
        *(f"{key}: {value:,}" for key, value in limits.items()),
        *(
            f"{price.kind}: {_usd(price)}, as of {price.as_of}, {price.confidence}: {price.source}"
            for price in row.prices
        ),
        *([] if row.prices else ["prices: none is known; give them in the question or in a catalogue of your own"]),
        *([f"note: {row.note}"] if row.note else []),
        f"source: {row.source} (checked {row.as_of})",
    ]
