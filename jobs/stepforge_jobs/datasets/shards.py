"""Shards: JSON lines of records, `records/{split}-{00000}.jsonl`, written by rename and read against the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from stepforge.contracts.base import canonical_json, first_problem
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Record, Split
from stepforge.errors import InvalidInput

FOLDER = "records"


def shard_path(split: Split, shard: int) -> str:
    return f"{FOLDER}/{split}-{shard:05d}.jsonl"


def split_of(path: str) -> str:
    """Split of a shard by its path in the manifest."""
    return path.removeprefix(f"{FOLDER}/").rpartition("-")[0]


def shard_bytes(records: Iterable[Record]) -> bytes:
    """The one byte string of these records, a line each."""
    return b"".join(canonical_json(record) + b"\n" for record in records)


def write_durably(path: Path, data: bytes) -> None:
    """Write by a temporary name, fsync and rename: the name never shows half a file, not after a power cut either."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def is_shard(path: str) -> bool:
    return path.startswith(f"{FOLDER}/") and path.endswith(".jsonl")


def read_records(folder: Path, manifest: Manifest, *splits: Split) -> list[Record]:
    """All records of the splits, in the order of the shards. Raises InvalidInput naming shard, line and field."""
    paths = [
        entry.path
        for entry in manifest.files
        if is_shard(entry.path) and (not splits or split_of(entry.path) in splits)
    ]
    return [record for path in paths for record in read_lines(folder / path, name=path)]


def read_lines(path: Path, *, name: str) -> Iterator[Record]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield Record.model_validate_json(line)
            except ValidationError as error:
                raise InvalidInput(f"{name} line {number}: {first_problem(error)}") from error
