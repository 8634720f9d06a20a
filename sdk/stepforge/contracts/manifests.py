"""Manifests: the files of an artifact with their digests. Written last; a reader checks before it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from stepforge.contracts.base import Contract, Sha256, canonical_json
from stepforge.errors import IntegrityError, InvalidInput

MANIFEST = "manifest.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
"""Endings, in lower case, of formats that can run code when they are read."""
ArtifactKind = Literal["dataset", "gate", "model", "evaluation", "plugin", "records"]


class FileEntry(Contract):
    path: str
    """Relative, with forward slashes, and the only way to write it."""
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)] | None = None
    """Number of records, where the file is a shard of them."""

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or path in ("", ".", MANIFEST):
            raise ValueError(f"path {path!r} must be relative, without '..', and not {MANIFEST!r} itself")
        if str(pure) != path or "\0" in path:
            raise ValueError(f"path {path!r} must be written as {str(pure)!r}, without zero bytes")
        return path


class Manifest(Contract):
    """The digest of a manifest is the digest of the artifact."""

    version: Literal[1] = 1
    kind: ArtifactKind
    files: tuple[FileEntry, ...]
    metadata: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _differ(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        paths = [entry.path for entry in files]
        if len(set(paths)) != len(paths):
            raise ValueError(f"a file is named twice: {sorted({p for p in paths if paths.count(p) > 1})}")
        return files

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self)).hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_folder(
    folder: Path, kind: ArtifactKind, *, metadata: dict[str, Any] | None = None, rows: dict[str, int] | None = None
) -> Manifest:
    """The manifest of every file below `folder`, hidden files and a manifest that is there left out.

    `rows` maps a shard's relative path to its number of records.
    """
    counts = rows or {}
    entries = tuple(
        FileEntry(path=name, sha256=sha256_of(path), bytes=path.stat().st_size, rows=counts.get(name))
        for name, path in _described(folder)
    )
    return Manifest(kind=kind, files=entries, metadata=metadata or {})


def _described(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative path and file of what a manifest of `folder` names."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and not any(part.startswith(".") for part in name.split("/")):
            yield name, path


def write_manifest(
    folder: Path, kind: ArtifactKind, *, metadata: dict[str, Any] | None = None, rows: dict[str, int] | None = None
) -> Manifest:
    """Describe `folder` and write its `manifest.json` last, by rename."""
    return put_manifest(folder, describe_folder(folder, kind, metadata=metadata, rows=rows))


def joined(kind: ArtifactKind, parts: Iterable[Manifest], *, metadata: dict[str, Any] | None = None) -> Manifest:
    """The manifest of a folder whose files lie in several places: what `describe_folder` says of all in one.

    Raises ValidationError where two parts name one file.
    """
    files = sorted((entry for part in parts for entry in part.files), key=lambda entry: PurePosixPath(entry.path))
    return Manifest(kind=kind, files=tuple(files), metadata=metadata or {})


def put_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the `manifest.json` of `folder` by rename. Call it when everything else is there."""
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_bytes(canonical_json(manifest))
    temporary.replace(folder / MANIFEST)
    return manifest


def parse_manifest(data: bytes, *, where: str, expected_sha256: str | None = None) -> Manifest:
    """Raises IntegrityError where the bytes are not the manifest that was expected."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValueError as error:
        raise IntegrityError(f"{where} is not a manifest: {error}") from error
    if expected_sha256 is not None and manifest.sha256 != expected_sha256:
        raise IntegrityError(
            f"{where} has digest {manifest.sha256}, but {expected_sha256} was expected: "
            "it was changed after it was written"
        )
    return manifest


def read_manifest(folder: Path, *, expected_sha256: str | None = None) -> Manifest:
    """Read the manifest of `folder` without looking at the files.

    Raises InvalidInput where there is none (the writer did not finish), IntegrityError where it differs.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidInput(f"{folder} has no {MANIFEST}: what wrote it did not finish. Run that job again")
    return parse_manifest(path.read_bytes(), where=str(path), expected_sha256=expected_sha256)


def check_files(folder: Path, manifest: Manifest, *, only: Iterable[str] | None = None) -> None:
    """Compare every file with its entry, or `only` those at these paths.

    Raises IntegrityError naming the first file that differs, or one that no entry vouches for.
    """
    wanted = None if only is None else set(only)
    named = {entry.path for entry in manifest.files}
    if wanted is None and (strangers := [name for name, _ in _described(folder) if name not in named]):
        raise IntegrityError(f"{folder / strangers[0]} is not in the manifest: it was added after that was written")
    for entry in manifest.files:
        if wanted is not None and entry.path not in wanted:
            continue
        path = folder / entry.path
        if not path.is_file():
            raise IntegrityError(f"{path} is missing; the manifest names it")
        if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            found = sha256_of(path)
            raise IntegrityError(
                f"{path} has SHA-256 {found}, but the manifest says {entry.sha256}: it was altered or damaged"
            )
