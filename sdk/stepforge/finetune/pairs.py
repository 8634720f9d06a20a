"""A user's file for a paid tune: records, and for `dpo` pairs of completions, told by `preferred` and `rejected`.

A pair's line is a record's with the two completions in the place of an answer. Pairs are trained on alone: what a model
is judged by are records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepforge.contracts.base import digest
from stepforge.contracts.manifests import sha256_of
from stepforge.contracts.records import TEST_SPLITS, Record
from stepforge.contracts.user_records import RecordsFile, read_user_files
from stepforge.errors import InvalidInput
from stepforge.finetune.datasets import Item, Pair

_SIDES = ("preferred", "rejected")


def read_items(data: Path, domain: str) -> list[Item]:
    """Every line of a file, in its order. Raises InvalidInput naming file, line and field."""
    sides: dict[str, tuple[str, str]] = {}
    lines = [_without_sides(line, f"{data.name} line {n}", sides) for n, line in enumerate(_lines(data), 1)]
    if not sides:
        return list(read_user_files([RecordsFile(data, data.name, sha256_of(data))], domain=domain, verifier=None))
    with TemporaryDirectory() as temporary:
        plain = Path(temporary) / "records.jsonl"
        plain.write_bytes(b"\n".join(lines))
        records = read_user_files([RecordsFile(plain, data.name, sha256_of(data))], domain=domain, verifier=None)
    return [
        Pair(record=record, preferred=sides[record.id][0], rejected=sides[record.id][1])
        if record.id in sides
        else record
        for record in records
    ]


def trained(items: Iterable[Item]) -> list[Item]:
    """What may be tuned on: pairs, and records of no held-out split."""
    return [item for item in items if isinstance(item, Pair) or item.split not in TEST_SPLITS]


def heldout(items: Iterable[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record) and item.split in TEST_SPLITS]


def _lines(data: Path) -> list[bytes]:
    return data.read_bytes().split(b"\n")


def _without_sides(line: bytes, where: str, sides: dict[str, tuple[str, str]]) -> bytes:
    """The line as a record's own. What is no pair stays as it was: who reads it says what is wrong with it."""
    try:
        found = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once)
    except ValueError:
        return line
    if not isinstance(found, dict) or not set(_SIDES) & set(found):
        return line
    for side in _SIDES:
        if not isinstance(found.get(side), str) or not found[side].strip():
            raise InvalidInput(
                f"{where}: field {side!r}: a pair has two texts, 'preferred' and 'rejected': give both, or an 'answer'"
            )
    if found.get("split") in TEST_SPLITS:
        raise InvalidInput(
            f"{where}: field 'split': a pair is trained on, and {found['split']!r} is held out: leave split out, and "
            "hold out records with an answer"
        )
    preferred, rejected = (found.pop(side) for side in _SIDES)
    record = {"split": "rl", "answer": preferred, **found}
    if not isinstance(record.setdefault("id", f"pair-{digest([found, preferred, rejected])[:24]}"), str):
        return json.dumps(record).encode()
    sides.setdefault(str(record["id"]), (preferred, rejected))
    return json.dumps(record).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field twice, which the reader of records refuses")
    return found
