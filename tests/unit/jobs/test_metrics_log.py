"""The write-ahead file: each step once, whatever happened to the process before."""

from __future__ import annotations

import errno
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest

from stepforge_jobs import durable
from stepforge_jobs.training.metrics_log import NAME, MetricsLog, read_rows

ROWS = [{"step": step, "loss": 1.0 / step} for step in range(1, 6)]


def log(folder: Path, rows: list[dict[str, float]], said: list[str] | None = None) -> MetricsLog:
    return MetricsLog(folder, rows, warn=(said if said is not None else []).append)


def written(folder: Path, rows: list[dict[str, float]]) -> Path:
    log_ = log(folder, [])
    for row in rows:
        log_.append(row)
    log_.close()
    return folder / NAME


def without_time(path: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "time"} for row in read_rows(path)]


def test_a_row_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    log_ = log(tmp_path, [])
    for count, row in enumerate(ROWS, start=1):
        log_.append(row)
        assert without_time(tmp_path / NAME) == ROWS[:count]


def test_lines_after_the_checkpoint_are_taken_back_and_the_others_keep_their_time(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    before = read_rows(path)
    log_ = log(tmp_path, ROWS[:3])
    assert read_rows(path) == before[:3]
    log_.append(ROWS[3])
    assert without_time(path) == ROWS[:4]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn-last-line": lambda data: data[:-4],
    "torn-in-the-first": lambda data: data[:9],
    "flipped-in-the-middle": lambda data: data.replace(b"loss", b"lo\0s", 1),
    "lost": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_the_checkpoint_vouches_for_is_there_after_any_damage(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = written(tmp_path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    log(tmp_path, ROWS[:4]).append(ROWS[4])
    assert without_time(path) == ROWS


def test_a_torn_last_line_is_no_row(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    path.write_bytes(path.read_bytes()[:-1])
    assert without_time(path) == ROWS[:4]


def test_a_full_disk_is_said_once_and_the_lines_follow_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log_ = log(tmp_path, [], said)
    log_.append(ROWS[0])
    original = durable.put

    def full(stream: FileIO, data: bytes | memoryview) -> None:
        original(stream, memoryview(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "put", full)
    log_.append(ROWS[1])
    log_.append(ROWS[2])
    assert without_time(tmp_path / NAME) == ROWS[:1]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    monkeypatch.setattr(durable, "put", original)
    log_.append(ROWS[3])
    assert without_time(tmp_path / NAME) == ROWS[:4]
