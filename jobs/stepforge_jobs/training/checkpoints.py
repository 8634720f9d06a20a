"""Checkpoints that are whole or not there: written aside, fsynced, renamed, and named valid by digests written last.

A checkpoint is a folder `step-00000020` with any files and a MANIFEST: one line of JSON with their SHA-256, and the
SHA-256 of that line. At a start the newest valid one is used; damaged ones are walked past, said aloud and removed.
Files are written as they are produced, a tensor at a time: weights and moments are never in memory twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stepforge.contracts.manifests import sha256_of
from stepforge_jobs import durable

MANIFEST = "MANIFEST"
KEPT = 2
"""The newest may be found damaged, so its predecessor stays."""

Chunks = Iterable[bytes | memoryview]
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Of the safetensors format, those that parameters and moments have."""


def write_checkpoint(folder: Path, step: int, files: Mapping[str, Chunks], *, keep: Collection[int] = ()) -> Path:
    """Write `files` as the checkpoint of `step`, and remove all but the newest two and the steps in `keep`.

    Raises DiskFull; the checkpoints that were there are then still there, and nothing else is.
    """
    target = checkpoint_path(folder, step)
    aside = folder / f".step-{step:08d}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with durable.room_for(f"the checkpoint of step {step}", folder):
            aside.mkdir(parents=True)
            digests = {name: _write(aside / name, chunks) for name, chunks in files.items()}
            line = json.dumps(digests, sort_keys=True).encode()
            _write(aside / MANIFEST, [line, b"\n", hashlib.sha256(line).hexdigest().encode()])
            durable.sync_folder(aside)
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)
    durable.sync_folder(folder)
    for old in checkpoints(folder)[:-KEPT]:
        if step_of(old) not in keep:
            remove(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first, valid or not."""
    return sorted(folder.glob("step-[0-9]*"))


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def newest_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> Path | None:
    """The newest valid checkpoint, every byte of it compared; None where there is none."""
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    for path in reversed(checkpoints(folder)):
        if (problem := problem_of(path)) is None:
            return path
        warn(f"checkpoint {path.name} is damaged ({problem}): going back to the one before it")
        remove(path)
    return None


def remove(path: Path) -> None:
    """What has a checkpoint's name, also where it is no folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte is as it was written."""
    try:
        line, _, check = (path / MANIFEST).read_bytes().rpartition(b"\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"no {MANIFEST}"
    if hashlib.sha256(line).hexdigest().encode() != check:
        return f"{MANIFEST} has another digest than its last line says"
    digests: dict[str, str] = json.loads(line)
    for name, digest in digests.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_of(path / name) != digest:
            return f"{name} has another digest than its {MANIFEST} says"
    return None


# ── Tensors ──────────────────────────────────────────────────────────────────────────────────────


def tensor_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file of these tensors: its header, then the bytes of one tensor after the other."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of a safetensors file, one at a time, in CPU memory."""
    with safe_open(path, framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118 - no mapping, only a method of that name
            yield name, stream.get_tensor(name)


def _write(path: Path, chunks: Chunks) -> str:
    """Write and fsync a file; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as stream:
        for chunk in chunks:
            digest.update(chunk)
            durable.put(stream, chunk)
        os.fsync(stream.fileno())
    return digest.hexdigest()
