"""Folders to S3 and back: content-addressed, manifest last, every file checked on the way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepforge.artifacts import folder as folder_of
from stepforge.artifacts import read_manifest, write_json
from stepforge.connection import Connection
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import MANIFEST, Manifest, check_files, sha256_of
from stepforge.contracts.names import Keys, split_uri
from stepforge.errors import IntegrityError

Progress = Callable[[str, int, int], None]
"""Called with a file's name, bytes done and bytes in all."""


def destination(connection: Connection, manifest: Manifest) -> ArtifactRef:
    """Where a folder with this manifest lies once it is uploaded."""
    key = Keys.upload(manifest.kind, manifest.sha256)
    return ArtifactRef(uri=f"s3://{connection.environment.bucket}/{key}", sha256=manifest.sha256)


def upload(
    connection: Connection, folder: Path, manifest: Manifest, *, progress: Progress = lambda *_: None
) -> ArtifactRef:
    """Put the files that `manifest` names under `raw/{kind}/{digest}/`; what is there already is not sent again.

    An upload that was cut off goes on where it stopped, and nobody reads the artifact before its manifest is there.
    Raises IntegrityError where a file changed since it was described; then it is not left under the old digest.
    """
    environment, s3 = connection.environment, connection.client("s3")
    ref = destination(connection, manifest)
    prefix = Keys.upload(manifest.kind, manifest.sha256)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": environment.key_arn}
    if _head(s3, environment.bucket, prefix + MANIFEST) is not None:
        return ref
    done, total = 0, sum(entry.bytes for entry in manifest.files)
    for entry in manifest.files:
        head = _head(s3, environment.bucket, prefix + entry.path)
        if head is None or head["Metadata"].get("sha256") != entry.sha256:
            extra = {**encryption, "Metadata": {"sha256": entry.sha256}}
            s3.upload_file(str(folder / entry.path), environment.bucket, prefix + entry.path, ExtraArgs=extra)
            if sha256_of(folder / entry.path) != entry.sha256:
                s3.delete_object(Bucket=environment.bucket, Key=prefix + entry.path)
                raise IntegrityError(
                    f"{folder / entry.path} changed while it was uploaded: run it again when it is still"
                )
        done += entry.bytes
        progress(entry.path, done, total)
    write_json(s3, manifest, bucket=environment.bucket, key=prefix + MANIFEST, key_arn=environment.key_arn)
    return ref


def download(
    connection: Connection, ref: ArtifactRef, folder: Path, *, progress: Progress = lambda *_: None
) -> Manifest:
    """Fetch an artifact and check every file. Raises IntegrityError naming the file that differs; then none is left."""
    s3 = connection.client("s3")
    manifest = read_manifest(s3, ref.uri, expected_sha256=ref.sha256)
    done, total = 0, sum(entry.bytes for entry in manifest.files)
    for entry in manifest.files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        bucket, key = split_uri(folder_of(ref.uri) + entry.path)
        s3.download_file(bucket, key, str(target))
        done += entry.bytes
        progress(entry.path, done, total)
    try:
        check_files(folder, manifest)
    except IntegrityError:
        for entry in manifest.files:
            (folder / entry.path).unlink(missing_ok=True)
        raise
    (folder / MANIFEST).write_bytes(canonical_json(manifest))
    return manifest


def _head(s3: Any, bucket: str, key: str) -> dict[str, Any] | None:
    try:
        head: dict[str, Any] = s3.head_object(Bucket=bucket, Key=key)
        return head
    except s3.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
