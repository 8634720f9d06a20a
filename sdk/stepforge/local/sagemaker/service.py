"""The service's front: reads a request, calls the operation, writes the answer in SageMaker's protocols."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from stepforge.contracts.names import INTERRUPT_TAG
from stepforge.local.sagemaker import components, endpoints, jobs, registry, shapes
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.inference import Invocations
from stepforge.local.sagemaker.serving import Deployments
from stepforge.local.sagemaker.store import Store
from stepforge.local.sagemaker.training import Scheduler
from stepforge.local.signatures import Request
from stepforge.local.state import Layout

logger = logging.getLogger(__name__)
Json = Any
Answer = tuple[int, dict[str, str], bytes]


def _add_tags(context: Context, request: Json) -> Json:
    arn = registry.taggable(context, request["ResourceArn"])
    if any(tag["Key"] == INTERRUPT_TAG for tag in request["Tags"]):
        jobs.ask_interruption(context, arn)
    context.store.tag(arn, request["Tags"])
    return {"Tags": context.store.tags(request["ResourceArn"])}


def _delete_tags(context: Context, request: Json) -> Json:
    context.store.untag(registry.taggable(context, request["ResourceArn"]), request["TagKeys"])
    return {}


def _list_tags(context: Context, request: Json) -> Json:
    return {"Tags": context.store.tags(registry.taggable(context, request["ResourceArn"]))}


OPERATIONS: dict[str, Callable[[Context, Json], Json]] = {
    "AddTags": _add_tags,
    "DeleteTags": _delete_tags,
    "ListTags": _list_tags,
    "CreateTrainingJob": jobs.create,
    "DescribeTrainingJob": jobs.describe,
    "StopTrainingJob": jobs.stop,
    "ListTrainingJobs": jobs.list_,
    "CreateModelPackageGroup": registry.create_group,
    "DescribeModelPackageGroup": registry.describe_group,
    "ListModelPackageGroups": registry.list_groups,
    "DeleteModelPackageGroup": registry.delete_group,
    "CreateModelPackage": registry.create,
    "DescribeModelPackage": registry.describe,
    "ListModelPackages": registry.list_,
    "UpdateModelPackage": registry.update,
    "DeleteModelPackage": registry.delete,
    "CreateModel": endpoints.create_model,
    "DescribeModel": endpoints.describe_model,
    "ListModels": endpoints.list_models,
    "DeleteModel": endpoints.delete_model,
    "CreateEndpointConfig": endpoints.create_config,
    "DescribeEndpointConfig": endpoints.describe_config,
    "ListEndpointConfigs": endpoints.list_configs,
    "DeleteEndpointConfig": endpoints.delete_config,
    "CreateEndpoint": endpoints.create,
    "DescribeEndpoint": endpoints.describe,
    "ListEndpoints": endpoints.list_,
    "UpdateEndpoint": endpoints.update,
    "DeleteEndpoint": endpoints.delete,
    "CreateInferenceComponent": components.create,
    "DescribeInferenceComponent": components.describe,
    "ListInferenceComponents": components.list_,
    "UpdateInferenceComponent": components.update,
    "DeleteInferenceComponent": components.delete,
}


class SageMakerService:
    def __init__(
        self,
        layout: Layout,
        *,
        endpoint_url: str,
        checkpoint: Callable[[], None],
        publish: Callable[[list[Json]], None],
    ) -> None:
        """`checkpoint` saves the backend's state, `publish` puts events on its default bus."""
        self.context = Context(layout, Store(layout.database), endpoint_url, checkpoint)
        self._publish = publish
        self._scheduler = Scheduler(self.context)
        self._deployments = Deployments(self.context)
        self._invocations = Invocations(self.context, self._deployments)
        self._ending = threading.Event()
        self._postman = threading.Thread(target=self._deliver, name="outbox", daemon=True)

    def start(self) -> None:
        """Call when the backend answers at `endpoint_url`."""
        self._postman.start()
        self._scheduler.start()
        self._deployments.start()
        self._invocations.start()

    def stop(self) -> None:
        self._ending.set()
        self.context.events_wanted.set()
        self._scheduler.stop()
        self._deployments.stop()
        self._postman.join(5)

    def close(self) -> None:
        """Call when nothing asks any more: an execution that still polls a job must not take the end for a failure."""
        self.context.store.close()

    def call(self, name: str, request: Json) -> Json:
        """One operation. Raises ServiceError."""
        shapes.validate(name, request)
        run = OPERATIONS.get(name)
        if run is None:
            raise ServiceError("UnknownOperationException", f"{name} is not covered by the local AWS")
        answer = shapes.shaped(name, run(self.context, request))
        self._deployments.after(name, request)
        return answer

    def answer(self, request: Request) -> Answer:
        identifier = str(uuid.uuid4())
        try:
            if found := re.fullmatch(r"/endpoints/([^/]+)/invocations", request.raw_path):
                status, headers, body = self._invoke(unquote(found.group(1)), request)
            elif found := re.fullmatch(r"/endpoints/([^/]+)/async-invocations", request.raw_path):
                headers, result = self._invocations.put(unquote(found.group(1)), request.headers)
                status, body = 202, json.dumps(result).encode()
            else:
                name = request.headers.get("x-amz-target", "").rpartition(".")[2]
                result = self.call(name, _parsed(request.body))
                status, headers, body = 200, {"content-type": "application/x-amz-json-1.1"}, json.dumps(result).encode()
        except ServiceError as error:
            status, headers, body = _failure(error)
        except Exception:
            logger.exception("request failed: %s", request.headers.get("x-amz-target", request.raw_path))
            status, headers, body = _failure(ServiceError("InternalFailure", "see `stepforge local logs`", status=500))
        return status, {**headers, "x-amzn-requestid": identifier}, body

    def _invoke(self, name: str, request: Request) -> Answer:
        passed = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id")
        headers = {key: request.headers[key] for key in passed if key in request.headers}
        unit = self._deployments.unit(name, request.headers.get("x-amzn-sagemaker-inference-component"))
        variant, answered, body = self._deployments.invoke(unit, request.body, headers)
        kept: dict[str, str] = {
            key: answered[key] for key in ("content-type", "x-amzn-sagemaker-custom-attributes") if key in answered
        }
        return (
            200,
            {"content-type": "application/octet-stream", **kept, "x-amzn-invoked-production-variant": variant},
            body,
        )

    def _deliver(self) -> None:
        """Events leave the outbox when the state that they led to is on disk: at least once, as on AWS."""
        while not self._ending.is_set():
            self.context.events_wanted.wait(2)
            self.context.events_wanted.clear()
            try:
                while pending := self.context.store.outbox():
                    self._publish([event for _, event in pending])
                    self.context.checkpoint()
                    self.context.store.sent([number for number, _ in pending])
            except Exception:
                logger.exception("events could not be published; they stay in the outbox")


def _parsed(body: bytes) -> Json:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise ServiceError("SerializationException", f"the request is not JSON: {error}") from error


def _failure(error: ServiceError) -> Answer:
    body = {"__type": error.code, "message": error.message, "Message": error.message, **error.members}
    headers = {"content-type": "application/x-amz-json-1.1", "x-amzn-errortype": error.code}
    return error.status, headers, json.dumps(body).encode()
