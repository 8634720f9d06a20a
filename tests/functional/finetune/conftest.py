"""The committed machine on the local AWS, and a request that a local server of the OpenAI protocol answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from stepforge.connection import Connection
from stepforge.contracts.names import spend_table
from stepforge.contracts.records import Provenance, Record
from stepforge.finetune.ledger_dynamodb import TableLedger
from stepforge.finetune.plan import Plan
from stepforge.finetune.request import Request, Start, Tools, submit
from stepforge.local import LocalAws
from stepforge.testing.providers import LocalOpenAI
from tests.functional.machines.conftest import Deployed, deploy_fake

SECRET = "stepforge/local/finetune/openai"


def record(number: int, split: str) -> Record:
    return Record(
        id=f"{split}-{number}",
        domain="records",
        source="user",
        split=split,  # type: ignore[arg-type]
        group=f"{split}-{number}",
        prompt=f"{number}",
        answer=f"{number}",
        verifier="records@1",
        provenance=Provenance(generator="user@1"),
    )


HELDOUT = [record(number, "test_new") for number in range(4)]


@dataclass
class Bench:
    deployed: Deployed
    server: LocalOpenAI
    folder: Path
    ledger: TableLedger

    @property
    def connection(self) -> Connection:
        return self.deployed.connection

    def plan(self, *, approval: int = 100, **given: Any) -> Plan:
        provider = {"type": "openai", "base_url": f"{self.server.url}/v1", "api_key_secret": SECRET}
        price = {"kind": "training_job", "usd": 3, "unit": "job", "as_of": "2026-11-01", "source": "given in a test"}
        budgets = {"job_usd": 50, "day_usd": 10_000, "environment_usd": 10_000, "approval_usd": approval}
        base = {"environment": "local", "base_model": "small", "method": "sft", "provider": provider}
        return Plan.model_validate({**base, "price": price, "budgets": budgets, **given})

    def submit(
        self, plan: Plan, *, domain: str = "records", count: int = 12, asked: Sequence[Record] = (), **given: Any
    ) -> Start:
        """Each has data of its own, and so is a launch of its own; `asked` are held out beside HELDOUT."""
        mark = uuid.uuid4().hex
        rows = [record(number, "rl").model_copy(update={"prompt": f"{mark} {number}"}) for number in range(count)]
        spec = plan.spec(rows, self.folder)
        heldout = "".join(row.model_dump_json() + "\n" for row in (*HELDOUT, *asked)).encode()
        assert plan.price is not None
        request = Request(
            plan=plan,
            spec=spec,
            price=plan.price,
            needed_until=date(2026, 12, 1),
            domain=domain,
            heldout_sha256=sha256(heldout).hexdigest(),
            **given,
        )
        aws = self.deployed.aws
        tools = Tools(
            ledger=self.ledger,
            s3=aws.client("s3"),
            sagemaker=aws.client("sagemaker"),
            secrets=lambda _: "sk-test",
            bucket=self.deployed.bucket,
            environment="local",
        )
        return submit(tools, request, self.folder, heldout)

    def begin(self, start: Start) -> str:
        states = self.deployed.aws.client("stepfunctions")
        plain = json.dumps(start.model_dump(mode="json"))
        arn: str = states.start_execution(
            stateMachineArn=self.deployed.machines["finetune"], name=f"t-{uuid.uuid4().hex}", input=plain
        )["executionArn"]
        return arn

    def run(self, start: Start) -> dict[str, Any]:
        return self.deployed.ended(self.begin(start), seconds=90)


def until(found: Callable[[], Any], *, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="session")
def deployed(local_aws: LocalAws) -> Deployed:
    found = deploy_fake(local_aws)
    functions = local_aws.client("lambda")
    for name in ("stepforge-local-finetune", "stepforge-local-finetune-stopped"):
        # Nothing trains here, so nothing is waited for between two looks.
        variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        variables |= {"FINETUNE_FIRST_SECONDS": "0", "FINETUNE_MOST_SECONDS": "0"}
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
    local_aws.client("secretsmanager").create_secret(Name=SECRET, SecretString="sk-planted-0123456789")
    return found


@pytest.fixture
def bench(deployed: Deployed, tmp_path: Path) -> Iterator[Bench]:
    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        return str(messages[-1]["content"])

    with LocalOpenAI(delay_seconds=0.02) as server:
        assert isinstance(server, LocalOpenAI)
        ledger = TableLedger(deployed.aws.client("dynamodb"), spend_table("local"))
        yield Bench(deployed, server, tmp_path, ledger)
