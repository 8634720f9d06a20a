"""Checkpoints: whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge_jobs.training.checkpoints import checkpoints, newest_checkpoint, write_checkpoint


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(folder, step, {"weights": f"weights of {step}".encode() * 100, "state": b"{}"})


def newest(folder: Path) -> tuple[int | None, list[str]]:
    said: list[str] = []
    found = newest_checkpoint(folder, warn=said.append)
    return (None if found is None else found[0]), said


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    write(tmp_path, 20, 40, 100)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000040", "step-00000100"]
    assert newest(tmp_path) == (100, [])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda p: (p / "MANIFEST").unlink(), "no MANIFEST"),
        (lambda p: (p / "MANIFEST").write_bytes(b'{"wei'), "an unreadable MANIFEST"),
        (lambda p: (p / "weights").unlink(), "weights is missing"),
        (lambda p: (p / "weights").write_bytes((p / "weights").read_bytes()[:-1]), "weights has another digest"),
        (lambda p: (p / "state").write_bytes(b"[]"), "state has another digest"),
    ],
    ids=["no-manifest", "torn-manifest", "lost-file", "torn-file", "altered-file"],
)
def test_a_damaged_checkpoint_is_walked_past_and_that_is_said(tmp_path: Path, damage: object, problem: str) -> None:
    write(tmp_path, 20, 40)
    damage(tmp_path / "step-00000040")  # type: ignore[operator]
    step, said = newest(tmp_path)
    assert step == 20
    assert len(said) == 1
    assert "step-00000040 is damaged" in said[0]
    assert problem in said[0]


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, 20, 40)
    for path in checkpoints(tmp_path):
        (path / "MANIFEST").unlink()
    step, said = newest(tmp_path)
    assert (step, len(said)) == (None, 2)


def test_what_a_crash_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 20)
    (tmp_path / ".step-00000040.tmp").mkdir()
    (tmp_path / ".step-00000040.tmp" / "weights").write_bytes(b"half")
    assert newest(tmp_path) == (20, [])
    assert not (tmp_path / ".step-00000040.tmp").exists()
