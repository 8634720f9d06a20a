"""A connection to a cloud environment of small fakes: enough to plan in."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from stepforge.contracts.environment import Environment
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.work import WORK_TYPES, DatasetWork, SftWork
from tests.fakes import FakeSageMaker, refusal

ENVIRONMENT = Environment(
    name="dev",
    bucket="stepforge-dev",
    key_arn="arn:aws:kms:us-east-1:123456789012:key/0",
    training_role_arn="arn:aws:iam::123456789012:role/training",
    serving_role_arn="arn:aws:iam::123456789012:role/serving",
    machines={"train": "arn:aws:states:us-east-1:123456789012:stateMachine:stepforge-dev-train"},
    images={"train": "repository/stepforge-train@sha256:" + "0" * 64},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
)
PIPELINE = PipelineSpec(
    domain="facial",
    dataset=DatasetWork(domain="facial"),
    stages=(SftWork(name="base"), SftWork()),
    code=ENVIRONMENT.code,
    image=ENVIRONMENT.images["train"],
    group="stepforge-facial",
)


class FakeObjects:
    """S3 with these objects, by key."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise refusal("GetObject", "The specified key does not exist.", "NoSuchKey")
        return {"Body": SimpleNamespace(read=lambda: self.objects[Key])}

    def put_object(self, *, Key: str, Body: bytes, **_: Any) -> None:
        self.objects[Key] = Body

    def get_paginator(self, operation: str) -> FakeObjects:
        assert operation == "list_objects_v2"
        return self

    def paginate(self, *, Prefix: str, **_: Any) -> Iterator[dict[str, Any]]:
        yield {"Contents": [{"Key": key} for key in sorted(self.objects) if key.startswith(Prefix)]}


class FakeStates:
    """Step Functions without an execution."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def describe_execution(self, **_: Any) -> dict[str, Any]:
        raise self.exceptions.ExecutionDoesNotExist

    def list_executions(self, **_: Any) -> dict[str, Any]:
        return {"executions": []}


class Pages:
    """A client whose paginators yield these pages, or raise."""

    def __init__(self, pages: Any) -> None:
        self.pages = pages
        self.asked: list[dict[str, Any]] = []

    def get_paginator(self, _: str) -> Pages:
        return self

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(request)
        if isinstance(self.pages, Exception):
            raise self.pages
        yield from self.pages(request) if callable(self.pages) else self.pages


class FakeConnection:
    """`clients` stand in for the ones that are made here."""

    name = "dev"
    environment = ENVIRONMENT

    def __init__(self, shape: Any, **clients: Any) -> None:
        sagemaker = FakeSageMaker()
        operation = SimpleNamespace(input_shape=shape)
        sagemaker.meta = SimpleNamespace(  # type: ignore[attr-defined]
            service_model=SimpleNamespace(operation_model=lambda _: operation)
        )
        self.clients: dict[str, Any] = {
            "sagemaker": sagemaker,
            "s3": FakeObjects(),
            "stepfunctions": FakeStates(),
            **{name.replace("_", "-"): client for name, client in clients.items()},
        }

    def client(self, service: str, **_: Any) -> Any:
        return self.clients[service]
