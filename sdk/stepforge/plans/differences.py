"""The difference between two specs, value by value, as a diff shows it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_DIGEST = 64
_SHOWN = 12


@dataclass(frozen=True)
class Change:
    """A value that differs; None where one side has no such field."""

    field: str
    before: Any
    after: Any

    @property
    def lines(self) -> list[str]:
        """`- field: before` and `+ field: after`; a side that has no such field has no line."""
        sides = (("-", self.before), ("+", self.after))
        return [f"{sign} {self.field}: {_short(value)}" for sign, value in sides if value is not _ABSENT]

    @property
    def plain(self) -> dict[str, Any]:
        sides = (("before", self.before), ("after", self.after))
        return {"field": self.field, **{name: value for name, value in sides if value is not _ABSENT}}


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def differences(before: BaseModel, after: BaseModel) -> list[Change]:
    """Values that differ between two specs, in the order of their fields. A stage is named by its name.

    Where an artifact lies is left out: its digest says what it is.
    """
    old, new = dict(_flat(before.model_dump(mode="json"))), dict(_flat(after.model_dump(mode="json")))
    fields = [*new, *(field for field in old if field not in new)]
    return [
        Change(field, old.get(field, _ABSENT), new.get(field, _ABSENT))
        for field in fields
        if old.get(field, _ABSENT) != new.get(field, _ABSENT)
    ]


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            if not (key == "uri" and "sha256" in value):
                yield from _flat(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{at}.{item.get('name', number)}")
        yield at, [item.get("name", number) for number, item in enumerate(value)]
    else:
        yield at, value


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value[:_SHOWN] if len(value) == _DIGEST and set(value) <= set("0123456789abcdef") else value
    return json.dumps(value)
