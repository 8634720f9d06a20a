"""Checkpoints: whole or not there."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stepforge.errors import DiskFull
from stepforge_jobs.training.checkpoints import (
    MANIFEST,
    checkpoints,
    newest_checkpoint,
    problem_of,
    step_of,
    tensor_chunks,
    tensors_of,
    write_checkpoint,
)

FILES = ("weights", "state")


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(folder, step, {"weights": [f"weights of {step}".encode()] * 100, "state": [b"{}"]})


def newest(folder: Path) -> tuple[int | None, list[str]]:
    said: list[str] = []
    found = newest_checkpoint(folder, warn=said.append)
    return (None if found is None else step_of(found)), said


def names(folder: Path) -> list[int]:
    return [step_of(path) for path in checkpoints(folder)]


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    write(tmp_path, 20, 40, 100)
    assert names(tmp_path) == [40, 100]
    assert newest(tmp_path) == (100, [])


def test_the_best_is_kept_beside_the_newest_two(tmp_path: Path) -> None:
    for step in (20, 40, 60, 80, 100):
        write_checkpoint(tmp_path, step, {"state": [b"{}"]}, keep={40} if step >= 40 else {20})
    assert names(tmp_path) == [40, 80, 100]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_damage_to_any_file_is_found_said_and_walked_past(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    write(tmp_path, 20, 40)
    damage(tmp_path / "step-00000040" / name)
    step, said = newest(tmp_path)
    assert step == 20
    assert len(said) == 1
    assert "step-00000040 is damaged" in said[0]
    assert name in said[0]


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_found(tmp_path: Path) -> None:
    write(tmp_path, 20)
    path = tmp_path / "step-00000020"
    whole = (path / MANIFEST).read_bytes()
    for index in range(len(whole)):
        data = bytearray(whole)
        data[index] ^= 1 << index % 8
        (path / MANIFEST).write_bytes(data)
        assert problem_of(path) is not None, index


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, 20, 40)
    for path in checkpoints(tmp_path):
        (path / MANIFEST).unlink()
    step, said = newest(tmp_path)
    assert (step, len(said)) == (None, 2)


def test_a_file_or_folder_in_the_place_of_the_other_is_walked_past(tmp_path: Path) -> None:
    write(tmp_path, 20, 40)
    (tmp_path / "step-00000040" / MANIFEST).unlink()
    (tmp_path / "step-00000040" / MANIFEST).mkdir()
    (tmp_path / "step-00000060").write_bytes(b"no folder")
    step, said = newest(tmp_path)
    assert (step, len(said)) == (20, 2)
    assert names(tmp_path) == [20]


def test_what_a_crash_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 20)
    (tmp_path / ".step-00000040.tmp").mkdir()
    (tmp_path / ".step-00000040.tmp" / "weights").write_bytes(b"half")
    assert newest(tmp_path) == (20, [])
    assert not (tmp_path / ".step-00000040.tmp").exists()


def test_a_checkpoint_that_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, 20)

    def chunks() -> Iterator[bytes]:
        yield b"first"
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"second")

    with pytest.raises(DiskFull, match=r"no space for the checkpoint of step 40 in .*GB are free"):
        write_checkpoint(tmp_path, 40, {"weights": chunks()})
    assert os.listdir(tmp_path) == ["step-00000020"]
    assert newest(tmp_path) == (20, [])


def test_tensors_are_written_as_safetensors_reads_them(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 5),
        "turned": torch.randn(4, 6).T,
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3.5),
        "nothing": torch.empty(0, 4),
        "count": torch.tensor([1, -2, 3]),
        "mask": torch.tensor([True, False, True]),
    }
    write_checkpoint(tmp_path, 1, {"t.safetensors": tensor_chunks(tensors)})
    path = tmp_path / "step-00000001" / "t.safetensors"
    read, own = load_file(path), dict(tensors_of(path))
    assert read.keys() == own.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert torch.equal(own[name], tensor)
        assert read[name].dtype == tensor.dtype


def test_weights_are_written_without_a_second_copy_of_them(tmp_path: Path) -> None:
    tensors = {f"layer {index}": torch.zeros(1_000_000) for index in range(8)}
    tracemalloc.start()
    try:
        write_checkpoint(tmp_path, 1, {"t.safetensors": tensor_chunks(tensors)})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert (tmp_path / "step-00000001" / "t.safetensors").stat().st_size > 32_000_000
    assert json.loads((tmp_path / "step-00000001" / MANIFEST).read_bytes().splitlines()[0]).keys() == {"t.safetensors"}
