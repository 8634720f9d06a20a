"""A question's file with arms added to it: what stands there stays as it is, what only a person knows is marked.

`FILL IN` marks it, and `read_question` refuses a file that still has such a mark.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from stepforge.contracts.decisions import Arm, Question
from stepforge.economics.catalogue_file import toml_value
from stepforge.economics.files import FILL_IN, question_of, read_plain, unfilled
from stepforge.errors import InvalidInput

HEAD: dict[str, tuple[str, Any]] = {
    "quality_usd": (
        "{ mean = 0.25, relative_sd = 0.3 }, say: worth in US dollars of one request whose answer turns from wrong to "
        "right",
        {"mean": 1},
    ),
    "requests_month": ("{ mean = 22000, relative_sd = 0.25 }, say: how many requests a month", {"mean": 1}),
    "base_request_usd": ("0.0001, say: what one request costs today, in US dollars", 0),
    "base_scores": ("[1, 0, ...]: scores of what answers today, 0 to 1, one for each held-out item", [0, 1]),
}
"""What nobody can look up: what is said of each, and what stands for it while the rest is checked."""
PEOPLE = "800, say: US dollars of people's time for one training"
Plain = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """A question that may have no arms yet, and marks in the place of what is to be filled in."""

    plain: Plain
    text: str | None
    """Of a TOML file, which is kept; None for JSON."""

    @classmethod
    def read(cls, path: Path) -> Draft:
        """Raises InvalidInput for a file that could be no question, whatever is filled in."""
        plain = read_plain(path, "a question", "docs/decision.md")
        if not isinstance(plain, dict):
            raise InvalidInput(f"{str(path)!r} is no question: give a table, not {plain!r} (docs/decision.md)")
        arms = plain.get("arms", [])
        if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
            raise InvalidInput(f"{str(path)!r} is no question: field 'arms' is a list of arms (docs/decision.md)")
        draft = cls(plain, None if path.suffix == ".json" else path.read_text(encoding="utf-8"))
        draft.head(path)
        return draft

    @property
    def names(self) -> set[str]:
        return {str(arm.get("name")) for arm in self.plain.get("arms", [])}

    def head(self, path: Path) -> Question:
        """All but the arms, with something in the place of what is not filled in. Raises InvalidInput."""
        aside = ("arms", "item_groups")
        given = {key: value for key, value in self.plain.items() if key not in aside and not unfilled(value)}
        begun: Plain = {"name": "question", "today": date.today(), "horizon_months": 1}
        stand_ins = {key: value for key, (_, value) in HEAD.items()}
        return question_of({**begun, **stand_ins, **given, "arms": [{"name": "arm", "method": "prompt"}]}, path)


def begun(*, name: str, today: date, horizon_months: int, base_request_usd: float | None) -> Plain:
    """The fields of a question that no person has to give, and marks for the others."""
    found: Plain = {"name": name, "today": today, "horizon_months": horizon_months}
    found |= {key: f"{FILL_IN}: {words}" for key, (words, _) in HEAD.items()}
    if base_request_usd is not None:
        found["base_request_usd"] = float(f"{base_request_usd:.6g}")
    return found


def arm_table(arm: Arm, *, people_known: bool) -> Plain:
    """An arm as a file has it, marked where nobody said what people's time costs."""
    plain = arm.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    if not people_known:
        plain["fixed"] = {**plain.get("fixed", {}), "people_usd": f"{FILL_IN}: {PEOPLE}"}
    return plain


def written(
    path: Path, draft: Draft | None, fields: Mapping[str, Any], arms: Sequence[tuple[str, Plain]]
) -> tuple[str, list[str]]:
    """The text of the file at `path`, and what is to be filled in there: what `draft` has, those of `fields` that it
    has not, and `arms`, each with a remark. It is read back before it is returned.

    Raises InvalidInput where what stands in the draft is no question, or is in the other format.
    """
    as_json = path.suffix == ".json"
    if draft is not None and as_json != (draft.text is None):
        raise InvalidInput(f"--out {path} is not in the format of --question: give both as .toml, or both as .json")
    had: Plain = {} if draft is None else draft.plain
    missing = {key: value for key, value in fields.items() if key not in had}
    if as_json:
        plain = {**missing, **had, "arms": [*had.get("arms", []), *(arm for _, arm in arms)]}
        text = json.dumps(plain, indent=2, default=date.isoformat) + "\n"
    else:
        text = _toml("" if draft is None or draft.text is None else draft.text, missing, arms, new=draft is None)
    try:
        found: Plain = json.loads(text) if as_json else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"no arms can be added to the question ({error}): write those it has as [[arms]]") from error
    left = unfilled(found)
    if not left:
        question_of(found, path)
    return text, left


def _toml(text: str, missing: Plain, arms: Sequence[tuple[str, Plain]], *, new: bool) -> str:
    lines = [f"# Arms from the catalogue. {FILL_IN} marks what only you know."] if new else []
    # Before the first table: a key after it would be that table's.
    lines += [f"{key} = {toml_value(value)}" for key, value in missing.items()]
    if text:
        lines.append(text.rstrip("\n"))
    for remark, arm in arms:
        lines += ["", f"# {remark}", "[[arms]]", *(f"{key} = {toml_value(value)}" for key, value in arm.items())]
    return "\n".join(lines) + "\n"
