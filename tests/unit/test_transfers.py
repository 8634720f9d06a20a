"""Uploads go on where they stopped, and what is not what its digest says reaches nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from stepforge import transfers
from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import MANIFEST, describe_folder
from stepforge.errors import IntegrityError

BUCKET = "stepforge-test"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        with mock_aws():
            client = boto3.client("s3", region_name="us-east-1")
            client.create_bucket(Bucket=BUCKET)
            yield client


@pytest.fixture
def connection(s3: Any) -> Any:
    for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    environment = SimpleNamespace(bucket=BUCKET, key_arn="arn:aws:kms:us-east-1:123456789012:key/0")
    return SimpleNamespace(environment=environment, client=lambda _service: s3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a.txt").write_text("a")
    (tmp_path / "model" / "sub" / "b.txt").write_text("b")
    return tmp_path / "model"


def keys(connection: Any) -> list[str]:
    return [entry["Key"] for entry in connection.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_what_was_uploaded_comes_back_whole(connection: Any, folder: Path, tmp_path: Path) -> None:
    manifest = describe_folder(folder, "model")
    ref = transfers.upload(connection, folder, manifest)
    assert transfers.download(connection, ref, tmp_path / "back") == manifest
    assert (tmp_path / "back" / "sub" / "b.txt").read_text() == "b"


def test_a_file_that_changes_meanwhile_is_not_left_under_the_old_digest(connection: Any, folder: Path) -> None:
    manifest = describe_folder(folder, "model")
    (folder / "sub" / "b.txt").write_text("B")
    with pytest.raises(IntegrityError, match=r"b\.txt changed while it was uploaded"):
        transfers.upload(connection, folder, manifest)
    assert [key.rpartition("/")[2] for key in keys(connection)] == ["a.txt"]
    (folder / "sub" / "b.txt").write_text("b")
    ref = transfers.upload(connection, folder, manifest)
    transfers.download(connection, ref, folder.parent / "back")


def test_a_download_that_was_altered_leaves_nothing(connection: Any, folder: Path, tmp_path: Path) -> None:
    ref = transfers.upload(connection, folder, describe_folder(folder, "model"))
    altered = next(key for key in keys(connection) if key.endswith("a.txt"))
    connection.client("s3").put_object(Bucket=BUCKET, Key=altered, Body=b"A")
    with pytest.raises(IntegrityError, match=r"a\.txt has SHA-256"):
        transfers.download(connection, ref, tmp_path / "back")
    assert [path for path in (tmp_path / "back").rglob("*") if path.is_file()] == []


def test_a_manifest_that_leads_out_of_the_folder_is_refused(connection: Any, folder: Path, tmp_path: Path) -> None:
    manifest = describe_folder(folder, "model")
    ref = transfers.upload(connection, folder, manifest)
    evil = canonical_json(manifest).replace(b'"a.txt"', b'"../a.txt"')
    key = next(key for key in keys(connection) if key.endswith(MANIFEST))
    connection.client("s3").put_object(Bucket=BUCKET, Key=key, Body=evil)
    with pytest.raises(IntegrityError, match=r"must be relative, without '\.\.'"):
        transfers.download(connection, ref, tmp_path / "inner" / "back")
    assert not (tmp_path / "inner").exists()
