"""Where lines go: a standard stream, or a file that is rotated by size."""

from __future__ import annotations

import fcntl
import io
import os
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from stepforge.errors import InvalidInput

AT_ONCE = 65_536
"""Bytes of several lines that one write may take."""


class Sink(Protocol):
    def write(self, lines: bytes) -> int:
        """Write what can be written now, and say how many bytes that was. Raises OSError."""

    def close(self) -> None: ...


class Standard:
    """stdout or stderr, as it is when a line is written."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def at_once(self) -> int:
        """A pipe that several processes share keeps a write in one piece up to PIPE_BUF bytes alone."""
        try:
            return AT_ONCE if stat.S_ISREG(os.fstat(getattr(sys, self._name).fileno()).st_mode) else select.PIPE_BUF
        except (OSError, ValueError, AttributeError):
            return AT_ONCE

    def write(self, lines: bytes) -> int:
        stream = getattr(sys, self._name)
        if stream is None or stream.closed:
            raise OSError(f"sys.{self._name} is closed")
        if type(stream) is not io.TextIOWrapper:
            # A notebook's, or a test's: what it does with its descriptor is not what it shows.
            stream.write(lines.decode())
            stream.flush()
            return len(lines)
        # Past the stream's buffer and its lock, which a signal handler's thread may hold.
        return _write(stream.fileno(), lines)

    def close(self) -> None:
        """The stream is the process's, not ours."""


def _write(descriptor: int, lines: bytes) -> int:
    while True:
        try:
            return os.write(descriptor, lines)
        except BlockingIOError:
            select.select([], [descriptor], [], 1.0)


class RotatingFile:
    """Appends to a file and moves it to `{name}.1`, `.2` and so on before it grows over `max_bytes`.

    Several processes may write to one file: a line is appended in one piece, rotation holds a lock, and who finds
    the file replaced opens the new one. Local file systems only: NFS neither appends nor locks that way.
    `rotated` is called with the new file's descriptor, so that a process can point its own streams at it.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, backups: int, rotated: Callable[[int], None] | None = None
    ) -> None:
        if max_bytes < 1_024 or backups < 1:
            raise InvalidInput(
                f"max_bytes {max_bytes!r}, backups {backups!r}: a log file needs at least 1024 bytes and 1 older file"
            )
        self._path, self._max_bytes, self._backups, self._rotated = path, max_bytes, backups, rotated
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._descriptor = -1
        self.at_once = min(AT_ONCE, max_bytes // 8)

    def write(self, lines: bytes) -> int:
        self._reopen()
        if os.fstat(self._descriptor).st_size + len(lines) > self._max_bytes:
            self._rotate(len(lines))
        return os.write(self._descriptor, lines)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _reopen(self) -> None:
        """Open the file that has the name now, unless it is open."""
        if self._descriptor >= 0:
            try:
                there, here = os.stat(self._path), os.fstat(self._descriptor)
            except FileNotFoundError:
                pass
            else:
                if (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev):
                    return
        fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        replaced = self._descriptor >= 0
        self.close()
        self._descriptor = fresh
        if replaced and self._rotated is not None:
            self._rotated(fresh)

    def _rotate(self, more: int) -> None:
        lock = os.open(self._lock_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._reopen()
            size = os.fstat(self._descriptor).st_size
            if not size or size + more <= self._max_bytes:
                return  # another process was first
            for number in range(self._backups - 1, 0, -1):
                older = self._older(number)
                if older.exists():
                    older.replace(self._older(number + 1))
            self._path.replace(self._older(1))
            self._reopen()
        finally:
            os.close(lock)

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
