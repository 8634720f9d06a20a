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

from stepforge.contracts.names import spend_table
from stepforge.errors import IdentityConflict, LaunchUncertain
from stepforge.finetune.entries import Stage
from stepforge.finetune.ledger_dynamodb import TableLedger, Waiting
from stepforge.finetune.ledger_file import FileLedger
from tests.infra.machines import LOCAL
from tests.infra.principals import ACCOUNT, REGION, Cloud
from tests.support.iam import decide
from tests.support.iam_calls import Call, listen, requests
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
    with pytest.raises(IdentityConflict, match="belongs to another launch than sf-b"):
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


def test_a_viewer_lists_tunes_and_what_they_wait_for_and_only_an_approver_reads_a_token() -> None:
    people = Cloud(LOCAL).principals
    with mock_aws():
        session = boto3.Session("a", "b", region_name="us-east-1")
        calls = listen(session)
        client = session.client("dynamodb")
        make_table(client, spend_table("local"))
        ledger = TableLedger(client, spend_table("local"))
        entry = reserve(ledger, "0" * 64, "18")
        waiting = Waiting(token="t", request_uri="s3://bucket/finetune/requests/r.json", request_sha256="1" * 64)
        ledger.wait_for_person(entry.key, waiting)
        calls.clear()
        assert [found.key for found in ledger.entries()] == [entry.key]
        assert ledger.asked(entry.key) == waiting.request_sha256
        assert ledger.lines(entry.key)
        assert ledger.spent("test") == 0
        looked, tokens = list(calls), len(calls)
        assert ledger.waiting(entry.key) == waiting
        secret = calls[tokens:]
    assert len(looked) >= 4
    assert len(secret) == 1

    def may(person: str, call: Call) -> set[str]:
        asked = requests(call, stem=f"{REGION}:{ACCOUNT}")
        return {decide(request, identity=people[person].policies) for request in asked}

    for person in ("viewer", "trainer", "approver"):
        assert {answer for call in looked for answer in may(person, call)} == {"allow"}, person
    assert [may(person, secret[0]) for person in ("viewer", "trainer", "approver")] == [
        {"implicit deny"}, {"deny"}, {"allow"},
    ]  # fmt: skip


def test_a_file_of_before_the_range_was_kept_is_read_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "spend.sqlite"
    FileLedger(path).close()
    db = sqlite3.connect(path)
    for name in ("low_micro_usd", "expected_micro_usd"):
        db.execute(f"ALTER TABLE launches DROP COLUMN {name}")
    about = "key, environment, provider, target, base_model, method, stage, estimate_micro_usd, reserved_at"
    db.execute(
        f"INSERT INTO launches ({about}) VALUES ('k', 'dev', 'openai', 't', 'b', 'sft', 'reserved', 3000000, 1.0)"
    )
    db.commit()
    db.close()
    ledger = FileLedger(path)
    assert (ledger.entry("k").estimate_usd, ledger.entry("k").low_usd, ledger.spent("dev")) == (3, None, 3)
    assert ledger.withdraw("k", "given up").stage == Stage.REFUSED
