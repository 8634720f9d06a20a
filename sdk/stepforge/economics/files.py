"""Questions in files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.decisions import Question
from stepforge.errors import InvalidInput


def read_question(path: Path) -> Question:
    """A question from TOML or JSON, by the file's ending. Raises InvalidInput with the field and what is wrong."""
    if not path.is_file():
        raise InvalidInput(f"there is no file {str(path)!r}: give a question as .toml or .json (docs/decision.md)")
    text = path.read_text(encoding="utf-8")
    try:
        plain = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return Question.model_validate(plain)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error}") from error
    except ValidationError as error:
        problem = first_problem(error, fields=Question.model_fields)
        raise InvalidInput(f"{str(path)!r} is no question: {problem} (docs/decision.md)") from error
