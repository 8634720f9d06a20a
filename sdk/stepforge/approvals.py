"""People in the loop: ask for an approval, see what is asked, answer. The machine `approve` waits for the answer.

Answering needs the token, which lies in the environment's bucket for those with the approvers' policy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from stepforge.artifacts import read_bytes
from stepforge.connection import Connection
from stepforge.contracts.base import canonical_json
from stepforge.contracts.names import Keys
from stepforge.contracts.requests import ASKED_SECONDS, Answer, ApprovalRequest, PendingApproval
from stepforge.errors import InvalidInput, UnknownName
from stepforge.following.job_runs import Started
from stepforge.machines import executions
from stepforge.machines.executions import Execution
from stepforge.registry import Package

_GONE = ("TaskDoesNotExist", "TaskTimedOut", "InvalidToken")


@dataclass(frozen=True)
class Asked:
    """A question, and how it stands: `status` is the execution's."""

    name: str
    request: ApprovalRequest
    status: str
    asked: datetime
    expires: datetime
    cause: str = ""


class Approvals:
    """Questions of one environment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, request: ApprovalRequest) -> Started[Answer]:
        """Ask a person, or adopt the same question that waits or was answered with yes."""
        machine = self._connection.environment.machines["approve"]
        states, plain = self._connection.client("stepfunctions"), request.model_dump(mode="json")
        execution = executions.start_or_adopt(states, machine, "approve", request.identity, plain)
        return Started(self._connection, execution, Answer)

    def ask_promotion(self, package: Package, *, expires_seconds: int = ASKED_SECONDS) -> Started[Answer]:
        """Ask whether a version shall be promoted. Yes approves it, which starts its promotion; no rejects it."""
        if package.approval != "PendingManualApproval":
            raise InvalidInput(f"{package.reference} is {package.approval}: there is nothing to ask about it")
        # Of the version as it is now: once it was answered, another question is another execution.
        details = {"model": package.reference, "since": f"{package.modified:%Y-%m-%dT%H:%M:%SZ}"}
        if package.comparison:
            details["champion gate"] = package.comparison[:400]
        question = f"Shall {package.reference} be promoted? {package.description}"[:1000]
        return self.ask(
            ApprovalRequest(
                kind="promotion",
                subject=package.arn,
                question=question,
                details=details,
                expires_seconds=expires_seconds,
            )
        )

    def pending(self) -> list[Asked]:
        """What waits for an answer, oldest first."""
        states, machine = self._connection.client("stepfunctions"), self._connection.environment.machines["approve"]
        pages = states.get_paginator("list_executions").paginate(
            stateMachineArn=executions.unqualified(machine), statusFilter="RUNNING"
        )
        arns = [execution["executionArn"] for page in pages for execution in page["executions"]]
        found = [executions.describe(states, arn) for arn in arns]
        return sorted((_asked(e) for e in found if e is not None), key=lambda asked: asked.asked)

    def answer(self, name: str, *, approved: bool, by: str, reason: str) -> Asked:
        """Answer a question that waits. Raises UnknownName, and InvalidInput where it waits no longer."""
        states, environment = self._connection.client("stepfunctions"), self._connection.environment
        waiting = {asked.name: asked for asked in self.pending()}
        if name not in waiting:
            found = executions.describe(states, executions.execution_arn(environment.machines["approve"], name))
            if found is None:
                raise UnknownName("approval", name, waiting)
            raise InvalidInput(f"{name} is {found.word} and waits for nobody: {found.cause or 'it was answered'}")
        uri = f"s3://{environment.bucket}/{Keys.approval(name)}"
        pending = PendingApproval.model_validate_json(read_bytes(self._connection.client("s3"), uri))
        said = Answer(approved=approved, by=by, reason=reason)
        try:
            states.send_task_success(taskToken=pending.token, output=canonical_json(said).decode())
        except states.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                raise InvalidInput(f"{name} waits no longer: it was answered or has expired meanwhile") from error
            raise
        return waiting[name]


def _asked(execution: Execution) -> Asked:
    request = ApprovalRequest.model_validate(execution.input)
    expires = execution.started + timedelta(seconds=request.expires_seconds)
    return Asked(execution.name, request, execution.word, execution.started, expires, execution.cause)
