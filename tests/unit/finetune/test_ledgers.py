"""Both ledgers keep the same promises: the file, and the table (moto's)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from stepforge.errors import IdentityConflict, LaunchUncertain
from stepforge.finetune.ledger_dynamodb import TableLedger
from stepforge.finetune.ledger_file import FileLedger
from tests.unit.finetune.ledger_contract import *  # noqa: F403
from tests.unit.finetune.ledger_contract import Books, Now, job, reserve


def make_table(client: Any, name: str = "spend") -> None:
    keys = [("pk", "HASH"), ("sk", "RANGE")]
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key, _ in keys],
    )


class OneAtATime:
    """moto undoes a refused transaction by putting whole tables back, with what others wrote meanwhile."""

    def __init__(self, client: Any) -> None:
        self._client, self._lock = client, threading.Lock()
        self.exceptions, self.get_paginator = client.exceptions, client.get_paginator

    def get_item(self, **given: Any) -> Any:
        with self._lock:
            return self._client.get_item(**given)

    def transact_write_items(self, **given: Any) -> Any:
        with self._lock:
            return self._client.transact_write_items(**given)


@pytest.fixture
def dynamodb() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("dynamodb", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        make_table(client)
        yield OneAtATime(client)


@pytest.fixture(params=["file", "table"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Books:
    now = Now()
    if request.param == "file":
        return (lambda: FileLedger(tmp_path / "spend.sqlite", clock=now)), now
    client = request.getfixturevalue("dynamodb")
    return (lambda: TableLedger(client, "spend", clock=now)), now


def test_a_job_belongs_to_one_launch_in_the_table(dynamodb: Any) -> None:
    ledger = TableLedger(dynamodb, "spend", clock=Now())
    for key in ("sf-a", "sf-b"):
        reserve(ledger, key)
    ledger.record("sf-a", job())
    with pytest.raises(IdentityConflict, match="another launch"):
        ledger.record("sf-b", job())


def test_a_job_belongs_to_one_launch_in_the_file(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "spend.sqlite", clock=Now())
    for key in ("sf-a", "sf-b"):
        reserve(ledger, key)
    ledger.record("sf-a", job())
    with pytest.raises(sqlite3.IntegrityError, match="job_id"):
        ledger.record("sf-b", job())
    assert ledger.entry("sf-a").job_id == "job-1"


def test_a_row_that_changed_meanwhile_is_decided_about_again(dynamodb: Any) -> None:
    now = Now()
    other = TableLedger(dynamodb, "spend", clock=now)
    reserve(other, "sf-a")

    class Overtaken(TableLedger):
        once = True

        def _wrote(self, *given: Any) -> bool:
            if self.once:
                self.once = False
                other.claim("sf-a", "faster", 60)
            return super()._wrote(*given)

    assert Overtaken(dynamodb, "spend", clock=now, sleep=lambda _: None).claim("sf-a", "slower", 60) == "busy"
    with pytest.raises(LaunchUncertain):
        Overtaken(dynamodb, "spend", clock=now).sending("sf-a", "slower", 60)
