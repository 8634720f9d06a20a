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

FILL_IN = "FILL IN"
"""What a value begins with that a person has still to give."""
CRITERIA = (
    "one has [[criteria]], each with name, weight_usd (US dollars for a full point, 0 or more) and scores (by arm, 0 "
    "to 1), and base_score and reason where they are needed (docs/finetune.md)"
)


def read_question(path: Path) -> Question:
    """A question from TOML or JSON, by the file's ending. Raises InvalidInput with the field and what is wrong."""
    plain = read_plain(path, "a question", "docs/decision.md")
    if left := unfilled(plain):
        raise InvalidInput(f"{str(path)!r} is not filled in yet: {'; '.join(left)}")
    return question_of(plain, path)


def question_of(plain: Any, path: Path) -> Question:
    """What a file holds as a question. Raises InvalidInput with the field and what is wrong."""
    try:
        return Question.model_validate(plain)
    except ValidationError as error:
        problem = first_problem(error, fields=Question.model_fields)
        raise InvalidInput(f"{str(path)!r} is no question: {problem} (docs/decision.md)") from error


def unfilled(plain: Any, where: str = "") -> list[str]:
    """A line for each place that is marked as to be filled in: the field, and what belongs there."""
    if isinstance(plain, str) and plain.startswith(FILL_IN):
        return [f"{where}{plain.removeprefix(FILL_IN)}"]
    if isinstance(plain, dict):
        return [line for key, value in plain.items() for line in unfilled(value, f"{where}.{key}".lstrip("."))]
    if isinstance(plain, list):
        named = [(one.get("name", at) if isinstance(one, dict) else at, one) for at, one in enumerate(plain)]
        return [line for name, value in named for line in unfilled(value, f"{where}[{name}]")]
    return []


def read_criteria(path: Path, question: Question) -> Told:
    """What one advisor says about this question, from TOML or JSON. See `contracts.decisions.Criteria`.

    Raises InvalidInput with the field, what was given and what is allowed; for criteria of another question or arm too.
    """
    plain = read_plain(path, "criteria", "docs/finetune.md")
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


def read_plain(path: Path, what: str, page: str) -> Any:
    """A TOML or JSON file as plain values. Raises InvalidInput."""
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}: give {what} as .toml or .json ({page})")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from error
