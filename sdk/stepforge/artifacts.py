"""Artifacts in S3: read only what their manifest vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import MANIFEST, FileEntry, Manifest, parse_manifest
from stepforge.contracts.names import split_uri
from stepforge.errors import IntegrityError, InvalidInput

Report = TypeVar("Report", bound=BaseModel)

_BLOCK = 1 << 20


def folder(uri: str) -> str:
    """`uri` with the slash at its end that makes a prefix mean one folder and not its namesakes."""
    return uri.rstrip("/") + "/"


def read_bytes(s3: Any, uri: str) -> bytes:
    """The object at `uri`. Raises InvalidInput naming it where there is none."""
    bucket, key = split_uri(uri)
    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey as error:
        raise InvalidInput(
            f"{uri} does not exist: what should have written it did not finish, or it was deleted"
        ) from error


def write_json(s3: Any, value: object, *, bucket: str, key: str, key_arn: str, **conditions: str) -> None:
    """Write canonical JSON, encrypted with the environment's key; `conditions` are S3's, such as `IfNoneMatch="*"`."""
    s3.put_object(
        Bucket=bucket,
        Key=key,
        Body=canonical_json(value),
        ContentType="application/json",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=key_arn,
        **conditions,
    )


def read_manifest(s3: Any, uri: str, *, expected_sha256: str | None = None) -> Manifest:
    """The manifest of the artifact in the folder `uri`. Raises IntegrityError where it is not the expected one."""
    where = folder(uri) + MANIFEST
    return parse_manifest(read_bytes(s3, where), where=where, expected_sha256=expected_sha256)


def read_file(s3: Any, artifact: ArtifactRef, path: str) -> bytes:
    """One file of an artifact, checked against the manifest's digest. For small files: it is held in memory."""
    manifest = read_manifest(s3, artifact.uri, expected_sha256=artifact.sha256)
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if entry is None:
        raise InvalidInput(
            f"the artifact {artifact.uri} has no {path!r}; it has: {', '.join(e.path for e in manifest.files)}"
        )
    data = read_bytes(s3, folder(artifact.uri) + path)
    check_digest(folder(artifact.uri) + path, entry, hashlib.sha256(data).hexdigest())
    return data


def read_report(s3: Any, artifact: ArtifactRef, path: str, model: type[Report]) -> Report:
    """A JSON file of an artifact as its model.

    Raises IntegrityError where it was changed, InvalidInput where it is malformed.
    """
    try:
        return model.model_validate_json(read_file(s3, artifact, path))
    except ValueError as error:
        raise InvalidInput(f"{folder(artifact.uri)}{path} is not a {model.__name__}: {error}") from error


def stream_sha256(s3: Any, uri: str) -> str:
    """SHA-256 of the object at `uri`, a mebibyte at a time."""
    bucket, key = split_uri(uri)
    state = hashlib.sha256()
    for block in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_BLOCK):
        state.update(block)
    return state.hexdigest()


def list_paths(s3: Any, uri: str) -> Iterator[str]:
    """Paths of the objects below the folder `uri`, relative to it."""
    bucket, prefix = split_uri(folder(uri))
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield entry["Key"].removeprefix(prefix)


def check_digest(where: str, entry: FileEntry, found: str) -> None:
    if found != entry.sha256:
        raise IntegrityError(
            f"{where} has SHA-256 {found}, but the manifest says {entry.sha256}: it was altered or damaged"
        )
