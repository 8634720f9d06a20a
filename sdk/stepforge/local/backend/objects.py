"""S3: an object that was taken is on disk."""

from __future__ import annotations

import errno
from typing import Any

import ministack.services.s3 as s3

_persist_object = s3._persist_object


def install() -> None:
    s3._persist_object = persist_object


def persist_object(bucket: str, key: str, obj: Any) -> None:
    """Upstream logs that a file could not be written, answers 200 and forgets the object at its end."""
    _persist_object(bucket, key, obj)
    if isinstance(obj, dict) and obj.get("body") is not None:
        raise OSError(errno.EIO, f"s3://{bucket}/{key} could not be stored, perhaps for want of space")
