"""What every handler shares: models in and out, JSON logs with the trace, settings and clients made once.

Errors pass through with their class names, because Step Functions' Catch and Retry match on them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ClassVar, TypeVar, get_type_hints

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict

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


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    context: ClassVar[dict[str, str]] = {}

    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname, "message": record.getMessage(), "logger": record.name, **self.context}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def handles(function: Callable[[Any], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """Validate the event as the model that `function` takes, and answer with JSON.

    An event that is malformed raises pydantic's ValidationError, which names the field.
    """
    request_model: type[BaseModel] = next(iter(get_type_hints(function).values()))

    @wraps(function)
    def handle(event: dict[str, Any], context: Any) -> Any:
        trace = os.environ.get("_X_AMZN_TRACE_ID", "").partition("Root=")[2].partition(";")[0]
        _configure_logs(
            service=f"stepforge.{function.__module__}",
            trace_id=trace,
            request_id=getattr(context, "aws_request_id", ""),
        )
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


def _configure_logs(**context: str) -> None:
    JsonFormatter.context = context
    root = logging.getLogger()
    if not any(isinstance(h.formatter, JsonFormatter) for h in root.handlers):
        stream = logging.StreamHandler(sys.stdout)
        stream.setFormatter(JsonFormatter())
        # Lambda puts a plain-text handler on the root logger before it imports us: two would write every line twice.
        root.handlers[:] = [stream]
        root.setLevel(os.environ.get("LOG_LEVEL", "INFO"))
