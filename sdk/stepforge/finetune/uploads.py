"""Reading what is about to be uploaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stepforge.errors import IntegrityError, InvalidInput


def checked_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a file, if they are those that were checked. Raises InvalidInput or IntegrityError."""
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist: write the data anew, and give the folder that it was written to")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{path} was changed after it was checked: write the data anew")
    return data
