"""Between folders and S3: channels, checkpoints, artifacts."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import ClientError

from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.names import split_uri


class DownloadFailed(Exception):
    pass


class Objects:
    """`client` is a boto3 S3 client; such clients are safe to share between threads."""

    def __init__(self, client: Any) -> None:
        self._s3 = client

    def download(self, uri: str, folder: Path, *, required: bool, part: tuple[int, int] = (0, 1)) -> int:
        """Everything below a prefix, or the one object of that name. Returns the number of files.

        `part` (i, n) takes every n-th object from the i-th on, in the order of their keys.

        Raises DownloadFailed where the bucket is missing, a key leads out of the folder, or nothing of a required
        prefix is there.
        """
        bucket, prefix = split_uri(uri)
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        try:
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"]
                    if key.endswith("/"):
                        continue
                    count += 1
                    if (count - 1) % part[1] != part[0]:
                        continue
                    path = folder / _relative(key, prefix)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._s3.download_file(bucket, key, str(path))
        except ClientError as error:
            raise DownloadFailed(f"{uri}: {error}") from error
        if required and not count:
            raise DownloadFailed(f'No S3 objects found under S3 URL "{uri}" given in input data source.')
        return count

    def upload(self, path: Path, uri: str, extra: dict[str, str]) -> None:
        bucket, key = split_uri(uri)
        self._s3.upload_file(str(path), bucket, key, ExtraArgs=extra or None)

    def upload_folders(self, folders: Sequence[Path], uri: str, extra: dict[str, str]) -> None:
        """Every file of each, the manifest last: a reader that finds it finds the rest too."""
        found = [(path, path.relative_to(folder).as_posix()) for folder in folders for path in files(folder)]
        for path, name in sorted(found, key=lambda item: (item[0].name == MANIFEST, item[1])):
            self.upload(path, f"{uri.rstrip('/')}/{name}", extra)

    def upload_archive(self, folders: Sequence[Path], uri: str, extra: dict[str, str]) -> None:
        archive = folders[0].with_name(f"{folders[0].name}.tar.gz")
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for folder in folders:
                for path in sorted(folder.iterdir()):
                    tar.add(path, path.name)
        self.upload(archive, uri, extra)
        archive.unlink()


def _relative(key: str, prefix: str) -> PurePosixPath:
    rest = PurePosixPath(key[len(prefix) :].lstrip("/") or PurePosixPath(key).name)
    if ".." in rest.parts or rest.is_absolute():
        raise DownloadFailed(f"the key {key!r} leads out of its folder")
    return rest


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


class CheckpointSync:
    """Copies a folder of checkpoints to S3 while a job writes into it.

    A file is copied once nobody has written to it for a moment, in the order in which the files were written, manifests
    last. Names that start with a dot or end in `.tmp`, of files or of folders, are work in progress and left out.
    What a job deletes stays in S3.
    """

    QUIET_SECONDS = 0.25

    def __init__(self, objects: Objects, folder: Path, uri: str, extra: dict[str, str]) -> None:
        self._objects, self._folder, self._uri, self._extra = objects, folder, uri.rstrip("/"), extra
        self._link = folder.with_name(f".{folder.name}.copying")
        self._copied = self._look()

    def _look(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in files(self._folder):
            parts = path.relative_to(self._folder).parts
            if any(part.startswith(".") or part.endswith(".tmp") for part in parts):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found[path] = (stat.st_mtime_ns, stat.st_size)
        return found

    def step(self, *, final: bool = False) -> int:
        """Copy what is due; everything that changed where `final`. Returns the number of files."""
        now, quiet_since = self._look(), time.time_ns() - int(self.QUIET_SECONDS * 1e9)
        due = [
            path for path, mark in now.items() if self._copied.get(path) != mark and (final or mark[0] < quiet_since)
        ]
        for path in sorted(due, key=lambda p: (p.name == MANIFEST, now[p])):
            try:
                self._copy(path)
            except FileNotFoundError:
                continue
            self._copied[path] = now[path]
        return len(due)

    def _copy(self, path: Path) -> None:
        """From a second name of the same file: the job may put another in its place while parts of it are sent."""
        self._link.unlink(missing_ok=True)
        os.link(path, self._link)
        self._objects.upload(self._link, f"{self._uri}/{path.relative_to(self._folder).as_posix()}", self._extra)
        self._link.unlink()
