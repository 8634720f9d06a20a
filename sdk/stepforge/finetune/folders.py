"""A folder of small files, in S3 or on this machine, with the one promise that a job needs: written once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from stepforge.contracts.names import split_uri


class Folder(Protocol):
    name: str

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...

    def write_once(self, name: str, data: bytes) -> bool:
        """Whether it was written: False where there was one, which stays."""
        ...

    def names(self, prefix: str) -> Iterator[str]: ...


class DiskFolder:
    """On this machine. A file is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, str(path)

    def read(self, name: str) -> bytes | None:
        path = self._path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        os.replace(self._beside(name, data), self._path / name)

    def write_once(self, name: str, data: bytes) -> bool:
        beside = self._beside(name, data)
        try:
            os.link(beside, self._path / name)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True

    def names(self, prefix: str) -> Iterator[str]:
        folder = self._path / prefix
        yield from (f"{prefix}{path.name}" for path in sorted(folder.glob("*.json")))

    def _beside(self, name: str, data: bytes) -> Path:
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = target.with_name(f".{secrets.token_hex(8)}")
        beside.write_bytes(data)
        beside.chmod(0o600)
        return beside


class S3Folder:
    """Below `s3://bucket/prefix`, by conditional writes."""

    def __init__(self, s3: Any, uri: str) -> None:
        self._s3, self.name = s3, uri.rstrip("/")
        self._bucket, self._prefix = split_uri(self.name)

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._s3.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=data)

    def write_once(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        from stepforge.economics.ledger import EXISTS

        try:
            self._s3.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in EXISTS:
                raise
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}/{prefix}"
        )
        for page in pages:
            yield from (entry["Key"].removeprefix(f"{self._prefix}/") for entry in page.get("Contents", []))
