"""Uploads go on where they stopped and are read by nobody before they are whole; downloads are checked file by file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from stepforge.connection import Connection
from stepforge.contracts.base import canonical_json
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import MANIFEST, Manifest, describe_folder
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import IntegrityError
from stepforge.submitting import transfers


@pytest.fixture
def connection() -> Iterator[Connection]:
    with mock_aws():
        session = boto3.Session("key", "secret", region_name="us-east-1")
        session.client("s3").create_bucket(Bucket="bucket")
        connection = Connection("test", session)
        connection.__dict__["environment"] = Environment(
            name="test",
            bucket="bucket",
            key_arn="arn:aws:kms:us-east-1:000000000000:key/1",
            training_role_arn="role",
            serving_role_arn="role",
            machines={},
            images={},
            code=dict.fromkeys(WORK_TYPES, "0" * 64),
        )
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "weights.safetensors").write_bytes(bytes(range(256)))
    (source / "deep" / "config.json").write_text("{}")
    return source


def objects(connection: Connection) -> dict[str, Any]:
    answer = connection.client("s3").list_objects_v2(Bucket="bucket")
    return {item["Key"]: item["LastModified"] for item in answer.get("Contents", [])}


def uploaded(connection: Connection, folder: Path) -> tuple[Manifest, ArtifactRef]:
    manifest = describe_folder(folder, "model")
    return manifest, transfers.upload(connection, folder, manifest)


def test_what_was_uploaded_comes_back_byte_by_byte(connection: Connection, folder: Path, tmp_path: Path) -> None:
    manifest, ref = uploaded(connection, folder)
    transfers.download(connection, ref, tmp_path / "back")
    assert describe_folder(tmp_path / "back", "model") == manifest
    assert ref == transfers.destination(connection, manifest)


def test_an_upload_that_was_cut_off_sends_only_what_is_missing(connection: Connection, folder: Path) -> None:
    class CutOff(Exception):
        pass

    def cut(name: str, done: int, total: int) -> None:
        raise CutOff(name)

    manifest = describe_folder(folder, "model")
    with pytest.raises(CutOff):
        transfers.upload(connection, folder, manifest, progress=cut)
    half = objects(connection)
    assert (len(half), any(key.endswith(MANIFEST) for key in half)) == (1, False)
    transfers.upload(connection, folder, manifest)
    whole = objects(connection)
    assert len(whole) == 3
    assert {key: whole[key] for key in half} == half


def test_the_same_folder_is_not_sent_twice(connection: Connection, folder: Path) -> None:
    uploaded(connection, folder)
    sent: list[str] = []
    transfers.upload(connection, folder, describe_folder(folder, "model"), progress=lambda name, *_: sent.append(name))
    assert sent == []


def test_a_flipped_byte_is_named_and_nothing_of_it_is_kept(
    connection: Connection, folder: Path, tmp_path: Path
) -> None:
    _, ref = uploaded(connection, folder)
    key = next(key for key in objects(connection) if key.endswith(".safetensors"))
    connection.client("s3").put_object(Bucket="bucket", Key=key, Body=bytes([1, *range(1, 256)]))
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        transfers.download(connection, ref, tmp_path / "back")
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == []


def test_a_manifest_of_other_bytes_is_refused(connection: Connection, folder: Path, tmp_path: Path) -> None:
    _, ref = uploaded(connection, folder)
    with pytest.raises(IntegrityError, match="was expected"):
        transfers.download(connection, ref.model_copy(update={"sha256": "f" * 64}), tmp_path / "back")


def test_a_file_that_changes_meanwhile_is_not_left_under_the_old_digest(connection: Connection, folder: Path) -> None:
    manifest = describe_folder(folder, "model")
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors changed while it was uploaded"):
        transfers.upload(connection, folder, manifest)
    assert [key.rpartition("/")[2] for key in objects(connection)] == ["config.json"]
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    transfers.download(connection, transfers.upload(connection, folder, manifest), folder.parent / "back")


def test_a_manifest_that_leads_out_of_the_folder_is_refused(
    connection: Connection, folder: Path, tmp_path: Path
) -> None:
    manifest, ref = uploaded(connection, folder)
    evil = canonical_json(manifest).replace(b'"deep/config.json"', b'"../config.json"')
    key = next(key for key in objects(connection) if key.endswith(MANIFEST))
    connection.client("s3").put_object(Bucket="bucket", Key=key, Body=evil)
    with pytest.raises(IntegrityError, match=r"must be relative, without '\.\.'"):
        transfers.download(connection, ref, tmp_path / "inner" / "back")
    assert not (tmp_path / "inner").exists()
