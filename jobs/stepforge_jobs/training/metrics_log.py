"""The write-ahead file of a training job's metrics: a JSON line a step, handed to the system before anything else.

`metrics.wal` lies beside the checkpoints. A line is a step's metrics and `time`, in seconds of the epoch. What was
learnt after the newest checkpoint is lost with a killed process, so its lines are taken back at the next start: then
every (metric, step) stands here once. Readers must bear a torn last line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from stepforge_jobs import durable
from stepforge_jobs.datasets.shards import write_durably

NAME = "metrics.wal"
TIME = "time"
SYNC_SECONDS = 1.0
"""kill -9 loses no line, a power cut at most this much of them."""

Row = dict[str, float]
"""`step`, and metric to value."""


class MetricsLog:
    """Opened with the rows that the newest checkpoint vouches for: exactly these stay in the file.

    A full disk is no reason to stop training: it is said once, and the lines follow when there is room.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], *, warn: Callable[[str], None]) -> None:
        self.path = folder / NAME
        self._warn = warn
        self._synced = 0.0
        self._waiting = b""
        """Lines that could not be written yet."""
        self._complained = False
        stamps = {row["step"]: row[TIME] for row in read_rows(self.path) if TIME in row}
        kept = b"".join(_line(row, stamps.get(row["step"], time.time())) for row in rows)
        with durable.room_for("the metrics", folder):
            if not self.path.is_file() or not self.path.read_bytes().startswith(kept):
                write_durably(self.path, kept)
        os.truncate(self.path, len(kept))
        self._stream = FileIO(self.path, "a")
        self.sync()

    def append(self, row: Row) -> None:
        self._append(_line(row, time.time()))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make everything so far outlive a power cut."""
        self._append(b"")
        os.fsync(self._stream.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._stream.close()

    def _append(self, data: bytes) -> None:
        self._waiting += data
        start = os.fstat(self._stream.fileno()).st_size
        try:
            durable.put(self._stream, self._waiting)
        except OSError as error:
            if not durable.is_full(error):
                raise
            self._stream.truncate(start)
            if not self._complained:
                self._warn(f"{self.path}: {error.strerror}; metrics are kept in memory until there is room")
            self._complained = True
            return
        self._waiting = b""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a write-ahead file up to the first that is torn; none where there is no file."""
    return list(_rows(path)) if path.is_file() else []


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(row, dict) or "step" not in row:
            return
        yield row


def _line(row: Row, at: float) -> bytes:
    return json.dumps({**row, TIME: round(at, 3)}).encode() + b"\n"
