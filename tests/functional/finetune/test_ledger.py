"""The spend ledger's table in the local AWS keeps the promises of the file."""

from __future__ import annotations

import uuid

import pytest

from stepforge.finetune.ledger_dynamodb import TableLedger
from stepforge.local import LocalAws
from tests.unit.finetune.ledger_contract import *  # noqa: F403
from tests.unit.finetune.ledger_contract import Books, Now
from tests.unit.finetune.test_ledgers import make_table


@pytest.fixture
def books(local_aws: LocalAws) -> Books:
    name, now = f"spend-{uuid.uuid4().hex[:8]}", Now()
    make_table(local_aws.client("dynamodb"), name)
    return (lambda: TableLedger(local_aws.client("dynamodb"), name, clock=now)), now
