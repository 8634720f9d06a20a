"""What commands print: one JSON document, or lines and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Env = Annotated[str, typer.Option("--env", envvar="STEPFORGE_ENV", help="Environment: local, or one that is deployed.")]


def say(text: str = "") -> None:
    """A line for people; on stderr, so that stdout stays the result's."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any, *, as_json: bool, text: str | None = None) -> None:
    """The command's result: JSON, or the text."""
    if as_json:
        print(json.dumps(value, default=str, indent=2 if sys.stdout.isatty() else None))
    elif text is not None:
        print(text)


def columns(names: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table that stays readable in a log: plain text, no box, nothing cut off."""
    lines = [list(names), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines]


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    print("\n".join(columns(names, rows)))


def print_lines(lines: Iterable[str], *, as_json: bool, **about: str) -> None:
    """Lines as they come; as JSON, one document at their end."""
    if as_json:
        emit({**about, "lines": list(lines)}, as_json=True)
        return
    for line in lines:
        print(line)
