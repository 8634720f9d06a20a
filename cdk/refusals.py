"""What is said of a wrong value in an environment's file: the field, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator

_WORDS: Mapping[str, str] = {
    "string_type": "give text in quotation marks",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "model_type": "give a table: its name in brackets, and below it a line for each key",
    "dict_type": "give a table: its name in brackets, and below it a line for each key",
}
"""Type of pydantic's error to what to do; of others its own message says what is allowed."""


def form(pattern: str, allowed: str) -> BeforeValidator:
    """A text of this form. `allowed` says in words, with an example, what to give instead of another."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"give {allowed}")
        return value

    return BeforeValidator(check)


def said(error: Any, settings: type[BaseModel], *, examples: Mapping[str, str]) -> str:
    """One of a validation's errors. `examples`: lines that could stand for a field that must be there."""
    path = ".".join(str(part) for part in error["loc"])
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        known = _fields(settings, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"there is no `{path}`: " + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}")
    if kind == "missing":
        return f"`{path}` is missing: add the line {examples[path]}" if path in examples else f"`{path}` is missing"
    if kind == "tuple_type":
        text = "" if isinstance(given, dict) else f": {json.dumps([given], default=str)}"
        return f"`{path}` = {given!r}: give a list, in brackets{text}"
    remedy = _WORDS.get(kind) or error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"`{path}` = {given!r}: {remedy}" if path else remedy


def _fields(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next(a for a in nested if issubclass(a, BaseModel))
    return sorted(set(model.model_fields) - {"name"})
