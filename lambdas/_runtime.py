"""What every handler shares: models in and out, JSON logs with the trace, settings and clients made once.

Errors pass through with their class names, because Step Functions' Catch and Retry match on them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

from stepforge import logs
from stepforge.errors import Throttled

_THROTTLED = ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
logger = logging.getLogger("stepforge.handler")
Model = TypeVar("Model", bound=BaseModel)


class Variables(BaseModel):
    """A handler's environment variables: the field `key_arn` is KEY_ARN."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=str.upper, populate_by_name=True)


@cache
def variables(model: type[Model]) -> Model:
    """Read once per process."""
    return model.model_validate(dict(os.environ))


@cache
def client(service: str) -> Any:
    """A client of the function's own region and role, kept between invocations."""
    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 6}))


def handles(function: Callable[[Any], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """Validate the event as the model that `function` takes, and answer with JSON.

    An event that is malformed raises pydantic's ValidationError, which names the field.
    """
    request_model: type[BaseModel] = next(iter(get_type_hints(function).values()))

    @wraps(function)
    def handle(event: dict[str, Any], context: Any) -> Any:
        with configured(function.__module__, context):
            return answer_of(event)

    def answer_of(event: dict[str, Any]) -> Any:
        try:
            answer = function(request_model.model_validate(event))
        except Exception as error:
            logger.error("handler failed", extra={"fields": {"error": type(error).__name__, "cause": str(error)}})
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _THROTTLED:
                # A throttled call says ClientError in every service: a name of its own lets the machine retry it.
                raise Throttled(str(error)) from error
            raise
        plain = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
        logger.info("handler done", extra={"fields": {"answer": plain}})
        return plain

    return handle


@contextmanager
def configured(module: str, context: Any) -> Iterator[None]:
    """Logs as every handler has them, with the ids of this invocation."""
    _configure_logs(f"stepforge.{module}")
    with logs.context(**_ids(context)):
        yield


def _ids(context: Any) -> dict[str, str]:
    """The trace comes from who called, with X-Ray's header; a session is this environment's life."""
    found = {
        "trace_id": logs.trace_of(os.environ.get("_X_AMZN_TRACE_ID", "")),
        "request_id": getattr(context, "aws_request_id", ""),
        "session_id": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", ""),
    }
    return {name: value for name, value in found.items() if value}


@cache
def _configure_once(service: str) -> None:
    # Lambda puts a plain-text handler on the root logger, which this replaces; and it freezes the process between
    # invocations, so that lines in a queue would wait for the next one.
    logs.configure(service, queued=False)


def _configure_logs(service: str) -> None:
    _configure_once(service)
    logs.set_level(os.environ.get("LOG_LEVEL") or "INFO")
