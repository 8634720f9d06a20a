"""EventBridge: what happens when a target cannot be reached.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
"""

from __future__ import annotations

import json
import threading
from typing import Any

import ministack.services.eventbridge as eventbridge
import ministack.services.lambda_svc as lambda_svc
import ministack.services.sqs as sqs
import ministack.services.stepfunctions as sfn

Json = Any
_failure = threading.local()
_invoke_target = eventbridge._invoke_target
_dispatch_to_sqs = eventbridge._dispatch_to_sqs


class Undelivered(Exception):
    pass


def install() -> None:
    eventbridge._invoke_target = invoke_target
    eventbridge._dispatch_to_lambda = dispatch_to_lambda
    eventbridge._dispatch_to_stepfunctions = dispatch_to_stepfunctions
    eventbridge._dispatch_to_sqs = dispatch_to_sqs


def _failed(code: str, message: str) -> None:
    _failure.last = (code, message)
    raise Undelivered(f"{code}: {message}")


def invoke_target(target: Json, event: Json, rule: Json, view: Json = None) -> None:
    """Upstream drops what it cannot deliver. A target that does not exist is not tried again, on AWS neither."""
    _failure.last = None
    _invoke_target(target, event, rule, view)
    queue_arn = (target.get("DeadLetterConfig") or {}).get("Arn")
    if _failure.last is None or not queue_arn or (queue := sqs._queue_by_arn(queue_arn)) is None:
        return
    code, message = _failure.last
    values = {
        "RULE_ARN": rule.get("Arn", ""),
        "TARGET_ARN": target.get("Arn", ""),
        "ERROR_CODE": code,
        "ERROR_MESSAGE": message,
        "EXHAUSTED_RETRY_CONDITION": "NonRetryableError",
        "RETRY_ATTEMPTS": "0",
    }
    view = view or eventbridge._pattern_event_view(event)
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in values.items() if value}
    request = {"MessageBody": json.dumps(view.event_with_detail()), "MessageAttributes": attributes}
    sqs._act_send_message(request, queue["url"])


def dispatch_to_lambda(arn: str, payload: str) -> None:
    """Upstream calls the function once and forgets its failure; on AWS the call is an asynchronous invocation."""
    func, config, name = lambda_svc._get_func_record_for_ref(arn)
    if not func or not config:
        _failed("RESOURCE_NOT_FOUND", f"Function not found: {name}")
    lambda_svc.invoke_async_with_retry(lambda_svc._execution_record_for_config(func, config), json.loads(payload))


def dispatch_to_stepfunctions(arn: str, payload: str) -> None:
    """Upstream only logs a machine that is missing, and not a start that is refused."""
    status, _, body = sfn._start_execution({"stateMachineArn": arn, "input": payload})
    if status >= 400:
        answer = json.loads(body)
        _failed(answer.get("__type", "INTERNAL_ERROR"), answer.get("message", ""))


def dispatch_to_sqs(spec: Json, payload: str, sqs_parameters: Json = None) -> None:
    """Upstream only logs a queue that is missing."""
    if not sqs._queue_by_arn(str(spec)):
        _failed("RESOURCE_NOT_FOUND", f"Queue not found: {spec.resource}")
    _dispatch_to_sqs(spec, payload, sqs_parameters)
