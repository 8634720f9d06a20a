"""Paid tunes in the world: a vendor that charges for each launch, the ledger's table, and ways through `finetune`.

The vendor keeps no promise about keys: whoever sends twice is charged twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ministack.services.stepfunctions as sfn

from stepforge.contracts.records import Provenance, Record
from stepforge.contracts.registry import ExternalLineage
from stepforge.finetune.entries import Budgets, Stage
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, State, Tuned, estimate
from stepforge.finetune.ledger_dynamodb import TableLedger
from stepforge.finetune.plan import Plan
from stepforge.finetune.request import Request, submit
from stepforge.finetune.spec import DatasetFile, TokenRange, TuneSpec, launch_key

if TYPE_CHECKING:
    from .world import World

Json = Any
ENVIRONMENT, TABLE, PRICE_USD = "chaos", "stepforge-chaos-spend", Decimal(3)


class Table:
    """DynamoDB as far as the ledger uses it: transactions hold all of their conditions, or change nothing."""

    class exceptions:
        class TransactionCanceledException(Exception):
            response: Json = {}

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], Json] = {}

    def get_item(self, *, Key: Json, **_: Any) -> Json:
        found = self._items.get(_key(Key))
        return {} if found is None else {"Item": found}

    def put_item(self, *, Item: Json, **_: Any) -> None:
        self._items[_key(Item)] = Item

    def transact_write_items(self, *, TransactItems: list[Json]) -> None:
        writes = [next(iter(item.items())) for item in TransactItems]
        reasons = ["None" if self._holds(write) else "ConditionalCheckFailed" for _, write in writes]
        if set(reasons) != {"None"}:
            refused = self.exceptions.TransactionCanceledException()
            refused.response = {"CancellationReasons": [{"Code": reason} for reason in reasons]}
            raise refused
        for kind, write in writes:
            if kind == "Put":
                self.put_item(Item=write["Item"])
            elif kind == "Update":
                assert write["UpdateExpression"] == "SET micro = :new"
                value = write["ExpressionAttributeValues"][":new"]
                self._items[_key(write["Key"])] = {**write["Key"], "micro": value}

    def _holds(self, write: Json) -> bool:
        item = self._items.get(_key(write.get("Item") or write["Key"]), {})
        values = write.get("ExpressionAttributeValues", {})

        def true(clause: str) -> bool:
            if clause.startswith("attribute_not_exists("):
                return clause.removeprefix("attribute_not_exists(").removesuffix(")") not in item
            name, value = clause.split(" = ")
            return bool(item.get(name) == values[value])

        condition: str | None = write.get("ConditionExpression")
        return condition is None or any(map(true, condition.split(" OR ")))

    def get_paginator(self, operation: str) -> Table:
        assert operation == "query"
        return self

    def paginate(self, *, ExpressionAttributeValues: Json, **_: Any) -> Iterator[Json]:
        wanted = ExpressionAttributeValues[":pk"]["S"]
        yield {"Items": [item for (pk, _), item in sorted(self._items.items()) if pk == wanted]}


def _key(item: Json) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


@dataclass
class Vendor:
    """A provider in memory. A job runs until it has been looked at so often."""

    name: str = "openai"
    target: str = "openai:chaos"
    local: bool = False
    remembers_seconds: float = 0.0
    looks: int = 2
    ends: State = State.SUCCEEDED
    jobs: dict[str, Job] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def validate(self, spec: TuneSpec) -> None:
        """It takes everything."""

    def estimate(self, spec: TuneSpec, price: Any, *, hours: Any = None) -> Estimate:
        return estimate(spec, price, hours=hours)

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        data = (folder / spec.training.filename).read_bytes()
        return Prepared(training=f"file-{hashlib.sha256(data).hexdigest()[:8]}")

    def find(self, key: str, prepared: Prepared) -> Job | None:
        return next((job for job in self.jobs.values() if job.key == key), None)

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        job = Job(provider="openai", id=f"job-{len(self.jobs)}", key=key, state=State.RUNNING, raw_state="running")
        self.jobs[job.id] = job
        return job

    def status(self, job_id: str) -> Job:
        self.seen[job_id] = self.seen.get(job_id, 0) + 1
        if not self.jobs[job_id].state.terminal and self.seen[job_id] >= self.looks:
            self._end(job_id, self.ends)
        return self.jobs[job_id]

    def cancel(self, job_id: str) -> Job:
        if not self.jobs[job_id].state.terminal:
            self._end(job_id, State.CANCELLED)
        return self.jobs[job_id]

    def _end(self, job_id: str, state: State) -> None:
        model = f"ft:{job_id}" if state == State.SUCCEEDED else None
        change = {"state": state, "raw_state": state.value, "model": model}
        self.jobs[job_id] = self.jobs[job_id].model_copy(update=change)

    def retrieve(self, job_id: str) -> Tuned:
        model = f"ft:{job_id}"
        return Tuned(provider="openai", job_id=job_id, model=model, handle=model)

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        return Completion(text=messages[-1].content, model=tuned.handle, input_tokens=1, output_tokens=1)

    def delete(self, tuned: Tuned) -> None:
        """Nobody asks for it here."""


@dataclass
class DeployedVendor(Vendor):
    """Its models answer on an endpoint alone, which is charged for as long as it is there."""

    endpoints: set[str] = field(default_factory=set)

    def check_serving(self, spec: TuneSpec) -> None:
        """It deploys everything."""

    def deploy(self, job_id: str, *, trial: bool, tags: Mapping[str, str]) -> Tuned:
        self.endpoints.add(f"{job_id}-trial" if trial else job_id)
        return self.retrieve(job_id)

    def undeploy(self, job_id: str, *, trial: bool) -> None:
        self.endpoints.discard(f"{job_id}-trial" if trial else job_id)


# ── Ways through the machine ─────────────────────────────────────────────────────────────────────


def tune(world: World, *, approval_usd: int = 100) -> tuple[str, Json]:
    rows = b"".join(b'{"messages": []}\n' for _ in range(12))
    sha256 = hashlib.sha256(rows).hexdigest()
    tokens = TokenRange(low=100, high=100, method="a test")
    file = DatasetFile(format="openai", method="sft", sha256=sha256, bytes=len(rows), rows=12, tokens=tokens)
    price = {
        "kind": "training_job",
        "usd": PRICE_USD,
        "unit": "job",
        "as_of": date(2026, 11, 1),
        "source": "given in a test",
    }
    budgets = {"job_usd": 50, "day_usd": 50, "environment_usd": 50, "approval_usd": approval_usd}
    plan = Plan.model_validate(
        {
            "environment": ENVIRONMENT,
            "base_model": "gpt-4.1-mini-2025-04-14",
            "method": "sft",
            "provider": {"type": "openai", "api_key_secret": "key"},
            "budgets": budgets,
            "price": price,
        }
    )
    spec = TuneSpec(
        provider="openai", environment=ENVIRONMENT, base_model="gpt-4.1-mini-2025-04-14", method="sft", training=file
    )
    heldout = b"".join(_record(number).model_dump_json().encode() + b"\n" for number in range(20))
    assert plan.price is not None
    request = Request(
        plan=plan,
        spec=spec,
        price=plan.price,
        needed_until=date(2026, 12, 1),
        domain="records",
        heldout_sha256=hashlib.sha256(heldout).hexdigest(),
    )
    tools: Any = SimpleNamespace(put=world.put, bucket=world.bucket)
    start = submit(tools, request, _Folder(rows), heldout)  # type: ignore[arg-type]
    world.key = launch_key(spec, world.vendor.target)
    return start.request_sha256, start.model_dump(mode="json")


class _Folder:
    """Every file below it holds the same."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __truediv__(self, name: str) -> _Folder:
        return self

    def read_bytes(self) -> bytes:
        return self._data


def _record(number: int) -> Record:
    return Record(
        id=f"r{number}",
        domain="records",
        source="user",
        split="test_new",
        group=f"g{number}",
        prompt=f"{number}",
        answer=f"{number}",
        verifier="records@1",
        provenance=Provenance(generator="user@1"),
    )


def tune_that_is_asked_for(world: World) -> tuple[str, Json]:
    """It is dear, and a person agrees."""
    start = tune(world, approval_usd=1)

    def yes() -> Json:
        room = Budgets(job_usd=50, day_usd=50, environment_usd=50, approval_usd=1)  # type: ignore[arg-type]
        world.ledger.approve(world.key, by="ada", budgets=room)
        return {}

    world.answers = [yes] * 3
    return start


def tune_on_an_endpoint(world: World) -> tuple[str, Json]:
    world.vendor = DeployedVendor()
    return tune(world)


def tune_that_is_refused(world: World) -> tuple[str, Json]:
    start = tune(world, approval_usd=1)

    def no() -> Json:
        raise sfn._ExecutionError("NotApproved", "ada refused it: too dear")

    world.answers = [no] * 3
    return start


# ── What must hold at the end ────────────────────────────────────────────────────────────────────

_STAGES = {State.SUCCEEDED: Stage.SUCCEEDED, State.CANCELLED: Stage.CANCELLED, State.FAILED: Stage.FAILED}


def tune_leftovers(world: World, *, beside: bool = False) -> list[str]:
    """What runs at the vendor, was charged twice, or is told otherwise by the ledger. `beside` models of ours."""
    jobs = list(world.vendor.jobs.values())
    found = [f"{job.id} runs at the vendor" for job in jobs if not job.state.terminal]
    if isinstance(world.vendor, DeployedVendor):
        found += [f"the endpoint {name} is charged" for name in sorted(world.vendor.endpoints)]
    if len(jobs) > 1:
        found.append(f"{len(jobs)} jobs are charged")
    spent = world.ledger.spent(ENVIRONMENT)
    entries = world.ledger.entries(ENVIRONMENT)
    if not entries:
        return found + (["a job is in no ledger"] if jobs else [])
    (entry,) = entries
    wanted = _STAGES.get(jobs[0].state, Stage.LAUNCHED) if jobs else Stage.REFUSED
    if entry.stage != wanted:
        found.append(f"the ledger says {entry.stage.value!r}, and it is {wanted.value!r}")
    if spent != (PRICE_USD if jobs else 0):
        found.append(f"the ledger counts {spent} USD")
    if entry.job_id != (jobs[0].id if jobs else None):
        found.append(f"the ledger knows the job {entry.job_id}")
    told = [line.stage for line in world.ledger.lines(entry.key)]
    if told[-1:] != [entry.stage]:
        found.append(f"the ledger's last line is of {told[-1:]}")
    for arn, package in world.sagemaker.packages.items():
        lineage = ExternalLineage.of(package["CustomerMetadataProperties"])
        if lineage is None and beside:
            continue
        if lineage is None or lineage.external_job != entry.job_id or entry.stage != Stage.SUCCEEDED:
            found.append(f"{arn} is registered without a tune that succeeded")
    return found


def ledger_of(table: Table) -> TableLedger:
    return TableLedger(table, TABLE, sleep=lambda _: None)


def settle(world: World, execution: Json, *, late: bool = True) -> None:
    """What EventBridge and Lambda do once an execution has ended, until it has worked; `late` is minutes after."""
    arn = execution["executionArn"]
    if execution["status"] not in STATUSES or arn in world.settled:
        return
    stopped = time.time() - (200 if late else 0)
    detail = {name: execution[name] for name in ("status", "input", "executionArn")}
    try:
        world.handle("finetune_stopped", {"detail": {**detail, "stopDate": int(stopped * 1000)}})
    except sfn._ExecutionError:
        if late:
            raise
        return
    world.settled.add(arn)


STATUSES = ("ABORTED", "FAILED", "TIMED_OUT")
"""Of the rule; a test holds them to the template."""
