"""Bytes that survive what may happen to a process: kill -9, a power cut, a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from stepforge.errors import DiskFull

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Occupied(Exception):
    """Another process writes here."""


def put(stream: FileIO, data: bytes | memoryview) -> None:
    """Hand all of it to the system: one `write` may take only a part, at most 2 GiB on Linux."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[stream.write(rest) :]


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the one process that writes to a folder, as long as the block or the process lives.

    Raises Occupied where another is. A file system that knows no locks is taken as it is.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(
                f"another process runs this job in {folder}: two would write over each other's checkpoints. Wait for "
                "it, or end it"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Whether the disk, the quota or the largest size of a file was reached."""
    return error.errno in _FULL


@contextmanager
def room_for(what: str, folder: Path) -> Iterator[None]:
    """Say a full disk in words. Raises DiskFull in the place of the system's own error."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise DiskFull(
            f"no space for {what} in {folder}: {error.strerror}, {free / 1e9:.2f} GB are free. What was there before "
            "is unharmed: give the job a larger volume and run it again, and it goes on from its newest checkpoint"
        ) from error
