"""A catalogue as a file: what of it differs from what ships, so that `Catalogue.load(path)` is the same again."""

from __future__ import annotations

import json
import re
from datetime import date
from decimal import Decimal
from typing import Any

from stepforge.contracts.base import Contract
from stepforge.economics.catalogue import Catalogue


def as_toml(catalogue: Catalogue) -> str:
    """The rows and pairs that do not ship just so. What ships stays out: a newer version of it is to count."""
    shipped = Catalogue.load()
    rows = [row for row in catalogue.rows.values() if shipped.rows.get(row.id) != row]
    pairs = [one for one in catalogue.pairs if one not in shipped.pairs]
    lines = ["# Written by `stepforge catalogue --out`: rows that take the place of those that ship.", "version = 1"]
    for name, tables in (("models", rows), ("pairs", pairs)):
        for table in tables:
            lines += ["", f"[[{name}]]", *(f"{key} = {toml_value(value)}" for key, value in _plain(table).items())]
    return "\n".join(lines) + "\n"


def _plain(model: Contract) -> dict[str, Any]:
    return model.model_dump(exclude_none=True, exclude_defaults=True)


def toml_value(value: Any) -> str:
    """A value as TOML writes it in a line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {toml_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f'"{value:f}"'  # a float of TOML would lose digits
    # JSON's escapes are TOML's, but for halves of a surrogate pair, and the delete character has to be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)
