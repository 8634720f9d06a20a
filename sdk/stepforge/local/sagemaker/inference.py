"""InvokeEndpointAsync: requests that lie in S3, a queue, and answers that are written to S3.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html. The queue is on disk: what a server had not
answered when it ended, the next one asks again. Not covered: a request in the call's own body.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from stepforge.contracts.names import split_uri
from stepforge.local.sagemaker import endpoints
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.serving import Deployments
from stepforge.local.state import REGION

logger = logging.getLogger(__name__)
Json = Any
_PREFIX = "x-amzn-sagemaker-"
_PASSED = {"content-type": "contentType", "accept": "accept", "custom-attributes": "customAttributes"}
_AT_ONCE = 4
_SECONDS, _TTL_SECONDS = 900, 6 * 3600


class Invocations:
    def __init__(self, context: Context, deployments: Deployments) -> None:
        self._context, self._deployments = context, deployments
        self._turns: dict[str, threading.Semaphore] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Ask again what the last server did not answer."""
        for waiting in self._context.store.all("invocation"):
            self._run(waiting)

    def put(self, endpoint: str, headers: Mapping[str, str]) -> tuple[dict[str, str], Json]:
        """Queue a request. Returns the headers and the body of the answer. Raises ValidationError."""
        component = headers.get(f"{_PREFIX}inference-component")
        self._deployments.unit(endpoint, component, asynchronous=True)
        if (location := headers.get(f"{_PREFIX}inputlocation")) is None:
            raise ServiceError("ValidationError", "InputLocation is missing: a request in the body is not covered here")
        known = endpoints.endpoint(self._context, endpoint)
        output = endpoints.config(self._context, known["EndpointConfigName"])["AsyncInferenceConfig"]["OutputConfig"]
        name = str(uuid.uuid4())
        answer = f"{output['S3OutputPath'].rstrip('/')}/{name}.out"
        failure = f"{output['S3FailurePath'].rstrip('/')}/{name}-error.out" if "S3FailurePath" in output else ""
        waiting = {
            "Name": name,
            "EndpointName": endpoint,
            "InferenceId": headers.get(f"{_PREFIX}inference-id", name),
            "InputLocation": location,
            "OutputLocation": answer,
            "FailureLocation": failure,
            "Passed": {key: headers[_PREFIX + key] for key in _PASSED if _PREFIX + key in headers},
            "Seconds": _seconds(headers, "InvocationTimeoutSeconds", _SECONDS, (1, 3600)),
            "Ends": time.time() + _seconds(headers, "RequestTTLSeconds", _TTL_SECONDS, (60, 21_600)),
            "Received": _now(),
        }
        self._context.store.put("invocation", name, waiting)
        self._run(waiting)
        said = {f"{_PREFIX}outputlocation": answer}
        return said | ({f"{_PREFIX}failurelocation": failure} if failure else {}), {
            "InferenceId": waiting["InferenceId"]
        }

    def _run(self, waiting: Json) -> None:
        threading.Thread(target=self._answer, args=(waiting,), name=f"async-{waiting['Name']}", daemon=True).start()

    def _turn(self, endpoint: str, at_once: int) -> threading.Semaphore:
        with self._lock:
            return self._turns.setdefault(endpoint, threading.Semaphore(at_once))

    def _answer(self, waiting: Json) -> None:
        name = waiting["EndpointName"]
        try:
            config = self._config(name)
            client = config.get("ClientConfig", {})
            with self._turn(name, client.get("MaxConcurrentInvocationsPerInstance", _AT_ONCE)):
                self._finish(waiting, config["OutputConfig"])
        except ServiceError as error:
            # The endpoint was deleted: nobody knows any more where answers are to go.
            logger.warning("invocation lost: endpoint=%s reason=%s", name, error)
        self._context.store.delete("invocation", waiting["Name"])

    def _config(self, endpoint: str) -> Json:
        known = endpoints.endpoint(self._context, endpoint)
        return endpoints.config(self._context, known["EndpointConfigName"])["AsyncInferenceConfig"]

    def _finish(self, waiting: Json, output: Json) -> None:
        try:
            if time.time() > waiting["Ends"]:
                raise ServiceError("ValidationError", "the request expired before its turn came: RequestTTLSeconds")
            content_type, body = self._ask(waiting)
        except (ServiceError, ClientError, BotoCoreError) as error:
            reason = str(error)
            if waiting["FailureLocation"]:
                self._write(waiting["FailureLocation"], reason.encode(), "text/plain", output)
            self._tell(output, "ErrorTopic", waiting, {"invocationStatus": "Failed", "failureReason": reason})
            return
        self._write(waiting["OutputLocation"], body, content_type, output)
        where = {"contentType": content_type, "outputLocation": waiting["OutputLocation"]}
        self._tell(output, "SuccessTopic", waiting, {"invocationStatus": "Completed", "responseParameters": where})

    def _ask(self, waiting: Json) -> tuple[str, bytes]:
        bucket, key = split_uri(waiting["InputLocation"])
        body = self._context.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        headers = {
            (key if key in ("content-type", "accept") else _PREFIX + key): value
            for key, value in waiting["Passed"].items()
        }
        unit = self._deployments.unit(waiting["EndpointName"], None, asynchronous=True)
        _, answered, content = self._deployments.invoke(unit, body, headers, seconds=waiting["Seconds"])
        return answered.get("content-type", "application/octet-stream"), content

    def _write(self, uri: str, body: bytes, content_type: str, output: Json) -> None:
        bucket, key = split_uri(uri)
        extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": output["KmsKeyId"]} if "KmsKeyId" in output else {}
        self._context.s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type, **extra)
        self._context.checkpoint()

    def _tell(self, output: Json, topic: str, waiting: Json, what: Json) -> None:
        """https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html"""
        if (arn := output.get("NotificationConfig", {}).get(topic)) is None:
            return
        asked = {_PASSED[key]: value for key, value in waiting["Passed"].items()}
        message = {
            "awsRegion": REGION,
            "eventTime": _now(),
            "receivedTime": waiting["Received"],
            **what,
            "requestParameters": {
                **asked,
                "endpointName": waiting["EndpointName"],
                "inputLocation": waiting["InputLocation"],
            },
            "inferenceId": waiting["InferenceId"],
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
        }
        try:
            self._context.sns.publish(TopicArn=arn, Message=json.dumps(message))
        except (ClientError, BotoCoreError) as error:
            logger.warning("nobody was told: topic=%s reason=%s", arn, error)


def _seconds(headers: Mapping[str, str], name: str, default: int, limits: tuple[int, int]) -> int:
    given = headers.get(_PREFIX + name.lower(), str(default))
    low, high = limits
    if not (given.isascii() and given.isdigit()) or not low <= int(given) <= high:
        raise ServiceError("ValidationError", f"{name} is {given!r}: give a whole number from {low} to {high}")
    return int(given)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
