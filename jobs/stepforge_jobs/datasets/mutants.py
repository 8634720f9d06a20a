"""Solutions that are wrong, or wrong with few exceptions: what a verifier is tried with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepforge.contracts.records import Record


def truncated(record: Record, _records: Sequence[Record], _index: int) -> str | None:
    """Without the last step."""
    return "\n".join(step.action for step in record.steps[:-1]) if len(record.steps) > 1 else None


def foreign(record: Record, records: Sequence[Record], index: int) -> str | None:
    """Another record's different solution or answer."""
    own = record.solution or record.answer
    if own is None:
        return None
    for other in (*records[index + 1 :], *records[:index]):
        theirs = other.solution or other.answer
        if other.split != "corpus" and theirs and theirs != own and other.prompt != record.prompt:
            return theirs
    return None


def backwards(record: Record, _records: Sequence[Record], _index: int) -> str | None:
    """The steps in reverse order."""
    reverse = "\n".join(step.action for step in reversed(record.steps))
    return reverse if record.steps and reverse != record.solution else None


MUTATIONS: dict[str, Callable[[Record, Sequence[Record], int], str | None]] = {
    "truncated": truncated,
    "foreign": foreign,
    "backwards": backwards,
}
