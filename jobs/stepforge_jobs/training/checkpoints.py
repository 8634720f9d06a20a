"""Checkpoints that are whole or not there: written aside, fsynced, renamed, and named valid by digests written last.

A checkpoint is a folder `step-00000020` with any files and a MANIFEST of their SHA-256. At a start the newest valid one
is used; damaged ones are walked past, said aloud and removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

MANIFEST = "MANIFEST"
KEPT = 2
"""The newest may be found damaged, so its predecessor stays."""


def write_checkpoint(folder: Path, step: int, files: Mapping[str, bytes]) -> Path:
    """Write `files` as the checkpoint of `step`, and remove all but the newest two."""
    target = folder / f"step-{step:08d}"
    aside = folder / f".step-{step:08d}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, data in files.items():
        _write(aside / name, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    _write(aside / MANIFEST, json.dumps(digests, sort_keys=True).encode())
    _sync(aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)
    _sync(folder)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first, valid or not."""
    return sorted(folder.glob("step-[0-9]*"))


def newest_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> tuple[int, dict[str, bytes]] | None:
    """Step and files of the newest valid checkpoint; None where there is none."""
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    for path in reversed(checkpoints(folder)):
        files, problem = _read(path)
        if problem is None:
            return int(path.name.removeprefix("step-")), files
        warn(f"checkpoint {path.name} is damaged ({problem}): going back to the one before it")
        shutil.rmtree(path)
    return None


def _read(path: Path) -> tuple[dict[str, bytes], str | None]:
    """The files of a checkpoint, and what is wrong with it."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        return {}, "no MANIFEST"
    try:
        digests: dict[str, str] = json.loads(manifest.read_bytes())
    except ValueError:
        return {}, "an unreadable MANIFEST"
    files: dict[str, bytes] = {}
    for name, digest in digests.items():
        if not (path / name).is_file():
            return {}, f"{name} is missing"
        files[name] = (path / name).read_bytes()
        if hashlib.sha256(files[name]).hexdigest() != digest:
            return {}, f"{name} has another digest than its MANIFEST says"
    return files, None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
