"""S3 in a dict: what the handlers call of it, a hundred times as quick as a simulation of the service."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

Json = Any


class NoSuchKey(ClientError):
    def __init__(self, key: str) -> None:
        error = {"Code": "NoSuchKey", "Message": f"The specified key does not exist: {key}"}
        super().__init__({"Error": error, "ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject")  # type: ignore[typeddict-item]


class _Body(io.BytesIO):
    def iter_chunks(self, size: int) -> Iterator[bytes]:
        while block := self.read(size):
            yield block


class Objects:
    """One bucket."""

    class exceptions:
        NoSuchKey = NoSuchKey
        ClientError = ClientError

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put_object(self, *, Key: str, Body: Any, **_: Any) -> Json:
        self.kept[Key] = Body if isinstance(Body, bytes) else bytes(Body)
        return {}

    def get_object(self, *, Key: str, **_: Any) -> Json:
        if Key not in self.kept:
            raise NoSuchKey(Key)
        return {"Body": _Body(self.kept[Key])}

    def copy_object(self, *, Key: str, CopySource: dict[str, str], **_: Any) -> None:
        self.kept[Key] = self.get_object(Key=CopySource["Key"])["Body"].read()

    def delete_object(self, *, Key: str, **_: Any) -> None:
        self.kept.pop(Key, None)

    def get_paginator(self, operation: str) -> Objects:
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Prefix: str = "", **_: Any) -> Iterator[Json]:
        yield {"Contents": [{"Key": key} for key in sorted(self.kept) if key.startswith(Prefix)]}
