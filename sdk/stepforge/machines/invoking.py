"""A request to what serves, in whichever mode, and its answer."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepforge.contracts.base import digest
from stepforge.contracts.names import Keys, split_uri
from stepforge.contracts.serving import InvokeRequest
from stepforge.errors import EnvironmentUnavailable, InvalidInput
from stepforge.logs import trace_header

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_JSON = {"ContentType": "application/json", "Accept": "application/json"}
_LONGEST_REASON = 400
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True)
class Target:
    endpoint: str
    component: str | None = None
    """Of an endpoint with components: which of them is asked."""
    bucket: str | None = None
    """Of an asynchronous endpoint: where requests lie."""


def invoke(runtime: Any, s3: Any, target: Target, request: InvokeRequest, *, timeout_seconds: float) -> bytes:
    """The answer's body. `timeout_seconds` bounds the wait for an asynchronous one.

    Raises InvalidInput where the model refuses the request, EnvironmentUnavailable where it fails or takes longer;
    botocore's ClientError where there is no such endpoint.
    """
    if target.bucket is not None:
        return _later(runtime, s3, target.endpoint, target.bucket, request, timeout_seconds=timeout_seconds)
    named = {} if target.component is None else {"InferenceComponentName": target.component}
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=target.endpoint,
            **named,
            **_JSON,
            CustomAttributes=trace_header(),
            Body=request.model_dump_json(),
        )
    except runtime.exceptions.ModelError as error:
        status = error.response.get("OriginalStatusCode", 500)
        raise _refusal(target.endpoint, status, said_by_container(error)) from error
    body: bytes = answer["Body"].read()
    return body


def _later(
    runtime: Any, s3: Any, endpoint: str, bucket: str, request: InvokeRequest, *, timeout_seconds: float
) -> bytes:
    """https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-invoke-endpoint.html"""
    key = Keys.inference("requests", f"{digest(request)}.json")
    s3.put_object(Bucket=bucket, Key=key, Body=request.model_dump_json().encode(), ContentType="application/json")
    given = runtime.invoke_endpoint_async(
        EndpointName=endpoint,
        InputLocation=f"s3://{bucket}/{key}",
        **_JSON,
        CustomAttributes=trace_header(),
        InvocationTimeoutSeconds=max(1, min(3600, int(timeout_seconds))),
    )
    ends, pause = time.monotonic() + timeout_seconds, _FIRST_PAUSE
    while time.monotonic() < ends:
        if (answer := _object(s3, given["OutputLocation"])) is not None:
            return answer
        if (failure := _object(s3, given.get("FailureLocation", ""))) is not None:
            text = failure.decode(errors="replace")
            status = re.search(r"error \((\d{3})\)", text)
            raise _refusal(endpoint, int(status[1]) if status else 500, _shortened(text))
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    raise EnvironmentUnavailable(
        f"the endpoint {endpoint!r} has not answered within {timeout_seconds:.0f} s: the answer will lie at "
        f"{given['OutputLocation']}"
    )


def _object(s3: Any, uri: str) -> bytes | None:
    if not uri:
        return None
    bucket, key = split_uri(uri)
    try:
        body: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
    return body


def _refusal(endpoint: str, status: int, reason: str) -> InvalidInput | EnvironmentUnavailable:
    if status < 500:
        return InvalidInput(reason)
    return EnvironmentUnavailable(f"the endpoint {endpoint!r} failed to answer: {reason}")


def said_by_container(error: ClientError) -> str:
    """What a container said, out of the ModelError that InvokeEndpoint makes of it; ours says `{"error": reason}`."""
    return _shortened(str(error.response.get("OriginalMessage") or error))


def _shortened(text: str) -> str:
    try:
        plain = json.loads(text)
    except ValueError:
        plain = None
    said = " ".join((str(plain["error"]) if isinstance(plain, dict) and "error" in plain else text).split())
    # What a container refuses it may quote whole.
    return (
        said if len(said) <= _LONGEST_REASON else f"{said[: _LONGEST_REASON // 2]} ... {said[-_LONGEST_REASON // 2 :]}"
    )
