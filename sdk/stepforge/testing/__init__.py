"""Small real classes that stand in for the cloud and for time in tests: yours and ours."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from stepforge.testing.faults import Call, Fault, FaultProxy, Rule

__all__ = ["Call", "FakeStepFunctions", "Fault", "FaultProxy", "Rule"]


class FakeClock:
    """Time that passes in pauses alone, for what takes a `stepforge.watchdog.Clock`.

    >>> clock = FakeClock()
    >>> clock.sleep(2.5)
    >>> clock.monotonic(), clock.slept
    (2.5, [2.5])
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._lock = threading.Lock()
        self.slept: list[float] = []
        """Every pause, in seconds."""

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass without a pause of anybody."""
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


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

    def start_execution(self, *, stateMachineArn: str, name: str, input: str, traceHeader: str = "") -> dict[str, Any]:
        machine = ":".join(stateMachineArn.split(":")[:7])  # an execution's name is its machine's, whatever alias
        arn = machine.replace(":stateMachine:", ":execution:") + f":{name}"
        found = self.executions.get(arn)
        if found is None:
            self.starts += 1
            now = datetime.now(UTC)
            found = {"executionArn": arn, "name": name, "status": "RUNNING", "startDate": now, "input": input}
            found["traceHeader"] = traceHeader
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


class FakeSecretsManager:
    """`get_secret_value` of boto3's client, which can be slow, fail and rotate.

    >>> manager = FakeSecretsManager({"provider": "old"})
    >>> manager.rotate("provider", "new")
    >>> manager.get_secret_value(SecretId="provider")["SecretString"]
    'new'
    """

    def __init__(self, values: dict[str, str | bytes]) -> None:
        self._stages = {name: {"AWSCURRENT": (value, "version-0")} for name, value in values.items()}
        self.asked: list[tuple[str, str]] = []
        """Secret and stage of every call."""
        self.delay_seconds = 0.0
        self.error: str | Exception | None = None
        """The code of a ClientError, or what is raised."""
        self.wait_for: threading.Event | None = None
        self.on_answer: Callable[[dict[str, Any]], None] = lambda _: None

    def begin_rotation(self, name: str, value: str | bytes) -> None:
        """As after createSecret and setSecret."""
        version = int(self._stages[name]["AWSCURRENT"][1].rpartition("-")[2]) + 1
        self._stages[name]["AWSPENDING"] = (value, f"version-{version}")

    def rotate(self, name: str, value: str | bytes) -> None:
        self.begin_rotation(name, value)
        stages = self._stages[name]
        stages["AWSPREVIOUS"], stages["AWSCURRENT"] = stages["AWSCURRENT"], stages.pop("AWSPENDING")

    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> dict[str, Any]:
        self.asked.append((SecretId, VersionStage))
        if self.wait_for is not None:
            self.wait_for.wait()
        time.sleep(self.delay_seconds)
        if isinstance(self.error, Exception):
            raise self.error
        found = self._stages.get(SecretId, {}).get(VersionStage)
        code = self.error or (None if found else "ResourceNotFoundException")
        if code is not None or found is None:
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": str(code), "Message": "as asked for"}}, "GetSecretValue")
        value, version = found
        kind = "SecretString" if isinstance(value, str) else "SecretBinary"
        answer = {"ARN": SecretId, kind: value, "VersionId": version, "VersionStages": [VersionStage]}
        self.on_answer(answer)
        return answer
