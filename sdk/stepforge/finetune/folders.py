"""A folder of small files, in S3, in Cloud Storage or on this machine, with what a job needs: some are written once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
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


class GcsFolder:
    """Below `gs://bucket/prefix`, by conditional writes. `storage` is a client of google-cloud-storage."""

    def __init__(self, storage: Any, uri: str, *, target: str = "vertex", timeout_seconds: float = 60) -> None:
        self._storage, self.name, self._target, self._timeout = storage, uri.rstrip("/"), target, timeout_seconds
        bucket, _, self._prefix = self.name.removeprefix("gs://").partition("/")
        self._bucket = storage.bucket(bucket)

    def read(self, name: str) -> bytes | None:
        from google.api_core.exceptions import NotFound

        with self._calling("read"):
            try:
                data: bytes = self._blob(name).download_as_bytes(retry=None, checksum=None, timeout=self._timeout)
            except NotFound:
                return None
        return data

    def write(self, name: str, data: bytes) -> None:
        with self._calling("write"):
            self._upload(name, data)

    def write_once(self, name: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        with self._calling("write"):
            try:
                self._upload(name, data, if_generation_match=0)
            except PreconditionFailed:
                return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        start = f"{self._prefix}/" if self._prefix else ""
        with self._calling("list"):
            # All at once: what fails in the middle of a page would fail outside of here.
            blobs = self._storage.list_blobs(self._bucket, prefix=f"{start}{prefix}", retry=None, timeout=self._timeout)
            found = list(blobs)
        yield from (blob.name.removeprefix(start) for blob in found)

    def uri(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _upload(self, name: str, data: bytes, **condition: int) -> None:
        blob = self._blob(name)
        blob.upload_from_string(
            data, content_type="application/json", retry=None, checksum=None, timeout=self._timeout, **condition
        )

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(f"{self._prefix}/{name}".lstrip("/"))

    def _calling(self, call: str) -> AbstractContextManager[None]:
        from stepforge.finetune.vertex_calls import calling

        return calling(self._target, f"storage.{call}", about_content=True)
