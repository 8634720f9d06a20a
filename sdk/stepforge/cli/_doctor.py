"""`stepforge doctor`, and its one line before a local run."""

from __future__ import annotations

import dataclasses

import typer

from stepforge.cli._output import emit, say
from stepforge.installation.health import Part, parts
from stepforge.installation.versions import differences, lock_file, locked

_DIFFERENT = 3


def doctor(*, as_json: bool) -> None:
    """Print every optional part, and every package that differs from the lock; exit code 3 where one does."""
    lock = lock_file()
    found = differences(lock)
    text = f"all {len(locked(lock))} packages are installed as {lock} has them"
    if found:
        listed = "\n".join(f"  {difference}" for difference in found)
        text = f"{len(found)} of {len(locked(lock))} packages are not those of the lock:\n{listed}\n{_remedy()}"
    looked = parts()
    plain = {
        "lock": str(lock),
        "differences": [dataclasses.asdict(difference) for difference in found],
        "parts": [dataclasses.asdict(part) for part in looked],
    }
    emit(plain, as_json=as_json, text="\n".join([*_lines(looked), "", text]))
    if found:
        raise typer.Exit(_DIFFERENT)


def _lines(looked: list[Part]) -> list[str]:
    width = max(len(part.name) for part in looked)
    lines = []
    for part in looked:
        lines.append(f"{part.state:<8}  {part.name:<{width}}  {part.detail}")
        if part.lost:
            lines.append(f"{'':<8}  {'':<{width}}  lost: {part.lost}")
        if part.mend:
            lines.append(f"{'':<8}  {'':<{width}}  mend: {part.mend}")
    return lines


def warn() -> None:
    """One line where a local run would be filed under versions that are not those that compute it."""
    if found := differences():
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        named = ", ".join(map(str, found[:3]))
        say(f"warning: not the locked versions, which the names of jobs stand for: {named}{more} (`stepforge doctor`)")


def _remedy() -> str:
    return (
        "Jobs here run with what is installed, but are named by the lock: what was computed with other versions is "
        f"adopted as if it were the same.\nTo mend it: python -m pip install -r {lock_file()}"
    )
