"""Questions and criteria in files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.decisions import Criteria, Question
from stepforge.economics.criteria import Told, pooled
from stepforge.errors import InvalidInput, UnknownName

CRITERIA = (
    "one has [[criteria]], each with name, weight_usd (US dollars for a full point, 0 or more) and scores (by arm, 0 "
    "to 1), and base_score and reason where they are needed (docs/finetune.md)"
)


def read_question(path: Path) -> Question:
    """A question from TOML or JSON, by the file's ending. Raises InvalidInput with the field and what is wrong."""
    plain = _plain(path, "a question", "docs/decision.md")
    try:
        return Question.model_validate(plain)
    except ValidationError as error:
        problem = first_problem(error, fields=Question.model_fields)
        raise InvalidInput(f"{str(path)!r} is no question: {problem} (docs/decision.md)") from error


def read_criteria(path: Path, question: Question) -> Told:
    """What one advisor says about this question, from TOML or JSON. See `contracts.decisions.Criteria`.

    Raises InvalidInput with the field, what was given and what is allowed; for criteria of another question or arm too.
    """
    plain = _plain(path, "criteria", "docs/finetune.md")
    try:
        found = Criteria.model_validate(plain)
    except ValidationError as error:
        problem = first_problem(error, fields=Criteria.model_fields)
        given = error.errors(include_url=False)[0]["input"]
        said = f" (given: {shortened(given)})" if isinstance(given, str | int | float) else ""
        raise InvalidInput(f"{str(path)!r} holds no criteria: {problem}{said}; {CRITERIA}") from error
    if found.question not in (None, question.name):
        raise InvalidInput(
            f"{str(path)!r} holds criteria for the question {found.question!r}, and this one is {question.name!r}: ask "
            "the advisor about this one, or leave the field question out"
        )
    told = Told(found.criteria)
    try:
        pooled(question, [told])
    except UnknownName as error:
        raise InvalidInput(f"{str(path)!r}: {error}") from error
    return told


def _plain(path: Path, what: str, page: str) -> Any:
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}: give {what} as .toml or .json ({page})")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from error
