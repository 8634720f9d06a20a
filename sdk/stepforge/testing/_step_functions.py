"""Executions of state machines in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


class FakeStepFunctions:
    """Executions in memory, with the answers of Step Functions to names that are taken.

    >>> states = FakeStepFunctions()
    >>> arn = states.start_execution(stateMachineArn="arn:aws:states:r:1:stateMachine:m", name="a", input="{}")
    >>> states.end(arn["executionArn"], "SUCCEEDED", output={"x": 1})
    >>> states.describe_execution(executionArn=arn["executionArn"])["status"]
    'SUCCEEDED'
    """

    class ExecutionDoesNotExist(Exception):
        pass

    class ExecutionAlreadyExists(Exception):
        pass

    def __init__(self) -> None:
        self.executions: dict[str, dict[str, Any]] = {}
        self.starts = 0
        self.exceptions = SimpleNamespace(
            ExecutionDoesNotExist=self.ExecutionDoesNotExist, ExecutionAlreadyExists=self.ExecutionAlreadyExists
        )

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        arn = stateMachineArn.replace(":stateMachine:", ":execution:") + f":{name}"
        found = self.executions.get(arn)
        if found is None:
            self.starts += 1
            now = datetime.now(UTC)
            found = {"executionArn": arn, "name": name, "status": "RUNNING", "startDate": now, "input": input}
            self.executions[arn] = found
        elif found["status"] != "RUNNING" or found["input"] != input:
            raise self.ExecutionAlreadyExists(name)
        return {"executionArn": arn, "startDate": found["startDate"]}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        if executionArn not in self.executions:
            raise self.ExecutionDoesNotExist(executionArn)
        return self.executions[executionArn]

    def end(self, arn: str, status: str, *, output: Any = None, error: str = "", cause: str = "") -> None:
        """Let a running execution end."""
        found = self.executions[arn]
        found |= {"status": status, "stopDate": datetime.now(UTC), "error": error, "cause": cause}
        if output is not None:
            found["output"] = json.dumps(output)
