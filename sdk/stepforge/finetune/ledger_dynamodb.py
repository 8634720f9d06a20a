"""The spend ledger of one environment, in a DynamoDB table: what the state machine and its people share.

Each change is one TransactWriteItems on condition that nothing it was decided by has changed since: the row's version,
and the sums that budgets are held against. Whoever comes second decides again. All reads are consistent.

Items, by `pk` and `sk`: `launch`/KEY a row, `lines#KEY`/number its history, `spent#ENVIRONMENT`/DAY or `ever` the sums
in millionths of a dollar, `job`/ACCOUNT ID the one launch that a job belongs to, `waiting`/KEY the task token of
an approval, `asked`/KEY whose execution waits. IAM goes by `pk`: cdk/people.py lets trainers read all but the tokens.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from stepforge.contracts.base import Contract, S3Uri, Sha256
from stepforge.errors import IdentityConflict, Throttled
from stepforge.finetune.entries import Line, Row, Share, Stage, micro, shares, time_of, usd_of
from stepforge.finetune.ledger import Ledger, Rule, Step

T = TypeVar("T")
Item = dict[str, Any]
TRIES = 60
_ROW, _LINES, _SPENT, _JOB, _EVER = "launch", "lines#", "spent#", "job", "ever"
_WAITING, _ASKED = "waiting", "asked"


class Waiting(Contract):
    """An execution that waits for a person."""

    token: str
    """Whoever has it can let the execution go on."""
    request_uri: S3Uri
    request_sha256: Sha256


class TableLedger(Ledger):
    """The books in a table with the keys `pk` and `sk`. `dynamodb` is a boto3 client."""

    def __init__(
        self,
        dynamodb: Any,
        table: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._dynamodb, self._table, self.clock, self._sleep = dynamodb, table, clock, sleep

    def _change(self, key: str, rule: Rule[T]) -> T:
        """Raises Throttled where others were faster each time."""
        for attempt in range(TRIES):
            item = self._get(_ROW, key)
            row, version = (None, 0) if item is None else (_row(item), int(item["version"]["N"]))
            sums: dict[Share, int] = {}

            step = rule(row, partial(self._others, shares(row), sums))
            if step.row is None or self._wrote(row, version, step, sums):
                return step.answer
            self._sleep(random.uniform(0, min(0.5, 0.01 * 2 ** min(attempt, 6))))
        raise Throttled(f"launch {key}: {TRIES} others changed the ledger first: call again")

    def _others(self, own: dict[Share, Decimal], sums: dict[Share, int], environment: str, day: str | None) -> Decimal:
        """What other launches count for; what was read is kept in `sums`."""
        sums[environment, day] = self._sum((environment, day))
        return usd_of(sums[environment, day]) - own.get((environment, day), Decimal(0))

    def _wrote(self, before: Row | None, version: int, step: Step[Any], sums: dict[Share, int]) -> bool:
        row = step.row
        assert row is not None
        line = {"at": {"N": repr(self.clock())}, "stage": {"S": row.stage.value}, "detail": {"S": step.line}}
        unseen = "attribute_not_exists(pk)"
        same = {"ConditionExpression": "version = :v", "ExpressionAttributeValues": {":v": {"N": str(version)}}}
        writes = [
            self._put(_item(row, version + 1), **(same if version else {"ConditionExpression": unseen})),
            self._put(
                {"pk": {"S": _LINES + row.key}, "sk": {"S": f"{version + 1:08d}"}, **line}, ConditionExpression=unseen
            ),
            *self._sums(shares(before), shares(row), sums),
        ]
        new_job = row.job_id is not None and (before is None or before.job_id != row.job_id)
        if new_job:
            mark = {"pk": {"S": _JOB}, "sk": {"S": f"{row.target} {row.job_id}"}, "launch": {"S": row.key}}
            mine = {":k": {"S": row.key}}
            condition = f"{unseen} OR launch = :k"
            writes.append(self._put(mark, ConditionExpression=condition, ExpressionAttributeValues=mine))
        try:
            self._dynamodb.transact_write_items(TransactItems=writes)
        except self._dynamodb.exceptions.TransactionCanceledException as error:
            reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", [])]
            if new_job and reasons[-1:] == ["ConditionalCheckFailed"]:
                raise IdentityConflict(f"job {row.job_id} belongs to another launch than {row.key}") from error
            lost = {"ConditionalCheckFailed", "TransactionConflict", "ThrottlingError", "None", None}
            if not set(reasons) <= lost:
                raise
            return False
        return True

    def _sums(self, before: dict[Share, Decimal], after: dict[Share, Decimal], seen: dict[Share, int]) -> list[Item]:
        """Move the sums on, and hold those that were looked at."""
        found = []
        for share in sorted({*before, *after, *seen}, key=str):
            delta = micro(after.get(share, Decimal(0)) - before.get(share, Decimal(0)))
            if not delta and share not in seen:
                continue
            old = seen[share] if share in seen else self._sum(share)
            condition = "micro = :old" if old else "attribute_not_exists(micro) OR micro = :old"
            about = {"TableName": self._table, "Key": _sum_key(share), "ConditionExpression": condition}
            values = {":old": {"N": str(old)}}
            if not delta:
                found.append({"ConditionCheck": {**about, "ExpressionAttributeValues": values}})
                continue
            values[":new"] = {"N": str(old + delta)}
            update = {"UpdateExpression": "SET micro = :new", "ExpressionAttributeValues": values}
            found.append({"Update": {**about, **update}})
        return found

    def _rows(self) -> Iterable[Row]:
        return [_row(item) for item in self._query(_ROW)]

    def lines(self, key: str) -> tuple[Line, ...]:
        return tuple(
            Line(
                key=key,
                at=time_of(float(item["at"]["N"])),
                stage=Stage(item["stage"]["S"]),
                detail=item["detail"]["S"],
            )
            for item in self._query(_LINES + key)
        )

    def spent(self, environment: str, *, day: str | None = None) -> Decimal:
        return usd_of(self._sum((environment, day)))

    def _sum(self, share: Share) -> int:
        key = _sum_key(share)
        item = self._get(key["pk"]["S"], key["sk"]["S"])
        return 0 if item is None else int(item["micro"]["N"])

    # What waits for a person

    def wait_for_person(self, key: str, waiting: Waiting) -> None:
        """Keep how the execution that waits for an approval is told of it. A newer wait takes an older one's place."""
        text = waiting.model_dump_json()
        self._dynamodb.put_item(
            TableName=self._table, Item={"pk": {"S": _WAITING}, "sk": {"S": key}, "waiting": {"S": text}}
        )
        asked = {"pk": {"S": _ASKED}, "sk": {"S": key}, "request_sha256": {"S": waiting.request_sha256}}
        self._dynamodb.put_item(TableName=self._table, Item=asked)

    def waiting(self, key: str) -> Waiting | None:
        item = self._get(_WAITING, key)
        return None if item is None else Waiting.model_validate_json(item["waiting"]["S"])

    def asked(self, key: str) -> str | None:
        """The digest of the request whose execution waits for a person; None where none has. It holds no token."""
        item = self._get(_ASKED, key)
        return None if item is None else item["request_sha256"]["S"]

    def _get(self, pk: str, sk: str) -> Item | None:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        answer: Item = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        return answer.get("Item")

    def _query(self, pk: str) -> Iterable[Item]:
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]

    def _put(self, item: Item, **condition: Any) -> Item:
        return {"Put": {"TableName": self._table, "Item": item, **condition}}


def _sum_key(share: Share) -> Item:
    return {"pk": {"S": _SPENT + share[0]}, "sk": {"S": share[1] or _EVER}}


def _item(row: Row, version: int) -> Item:
    text = json.dumps(row.model_dump(mode="json", exclude_none=True), sort_keys=True)
    # The stage and the environment again, for people who look at the table.
    about = {"stage": {"S": row.stage.value}, "environment": {"S": row.environment}}
    return {"pk": {"S": _ROW}, "sk": {"S": row.key}, "row": {"S": text}, "version": {"N": str(version)}, **about}


def _row(item: Item) -> Row:
    return Row.model_validate_json(item["row"]["S"])
