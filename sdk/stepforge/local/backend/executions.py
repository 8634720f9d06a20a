"""Step Functions: executions that start once, stop for good, and nest."""

from __future__ import annotations

import json
from typing import Any

import ministack.services.stepfunctions as sfn

from stepforge.local.backend import versions, waiting
from stepforge.machines.executions import INTERRUPTED

Json = Any
_start_execution = sfn._start_execution
_run_execution = sfn._run_execution
_fail_execution = sfn._fail_execution
_load_persisted_state = sfn.load_persisted_state
_describe_execution = sfn._describe_execution
_traces: dict[str, str] = {}
_asked: dict[str, dict[str, str]] = {}
_UPSTREAM_INTERRUPTED = "States.ServiceRestart"


def install() -> None:
    sfn._start_execution = start_execution
    sfn._run_execution = run_execution
    sfn._fail_execution = fail_execution
    sfn.load_persisted_state = load_persisted_state
    sfn._describe_execution = describe_execution
    sfn._invoke_nested_start_execution_sync = nested_start_execution_sync
    sfn._invoke_nested_start_execution = nested_start_execution


def start_execution(data: Json) -> Json:
    """Upstream refuses a second start with the same name and input while the first runs; AWS answers with the first:
    https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html"""
    machine = sfn._state_machines.get(sfn._resolve_state_machine_arn(data.get("stateMachineArn", "")) or "")
    if machine is not None:
        data = {**data, "name": data.get("name") or sfn.new_uuid()}
        arn = f"arn:aws:states:{sfn.get_region()}:{sfn.get_account_id()}:execution:{machine['name']}:{data['name']}"
        known = sfn._executions.get(arn)
        if known is not None and known["status"] == "RUNNING" and _same_json(known["input"], data.get("input", "{}")):
            return sfn.json_response({"executionArn": arn, "startDate": known["startDate"]})
        _traces[arn] = data.get("traceHeader") or trace_header()
        _asked[arn] = versions.asked_for(data["stateMachineArn"])
    return _start_execution(data)


def trace_header() -> str:
    """X-Ray's header of the execution that this thread works for; empty where there is none. Upstream drops it."""
    run = waiting.current()
    return run.execution.get("traceHeader") or "" if run is not None else ""


def _same_json(one: str, other: str) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def run_execution(arn: str) -> None:
    """Upstream's threads do not know which execution they work for, so nothing they wait for ends with it."""
    if (execution := sfn._executions.get(arn)) is not None:
        # Set by who started it, before upstream had an execution to keep it in.
        execution["traceHeader"] = _traces.pop(arn, "")
        execution |= _asked.pop(arn, {})
        waiting.enter(waiting.TaskRun(execution))
        versions.pinned(_run_execution, execution)(arn)


def fail_execution(execution: Json, error: str, cause: str) -> None:
    """Upstream turns an execution that was stopped into a failed one when its last task ends."""
    if execution["status"] == "RUNNING":
        _fail_execution(execution, error, cause)


def describe_execution(data: Json) -> Json:
    """Upstream writes the error as an output too, where on AWS only an execution that succeeded has one, and does not
    say which version and alias ran:
    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html"""
    status, headers, body = _describe_execution(data)
    if status != 200:
        return status, headers, body
    answer = json.loads(body) | versions.started(sfn._executions[data["executionArn"]])
    if answer["status"] != "SUCCEEDED":
        answer = {key: value for key, value in answer.items() if key not in ("output", "outputDetails")}
    return sfn.json_response(answer)


def load_persisted_state(data: Json) -> None:
    """Upstream fails what ran when the server went away under a name that tells nobody what to do."""
    _load_persisted_state(data)
    for execution in sfn._executions.all_values():
        if execution.get("error") == _UPSTREAM_INTERRUPTED:
            execution["error"] = INTERRUPTED
            execution["cause"] = (
                "the local AWS stopped while this ran; the same command goes on from the last checkpoint"
            )


def _start_nested(input_data: Json) -> str:
    request = sfn._nested_start_execution_request(input_data)
    status, _, body = sfn._start_execution(request)
    payload = json.loads(body)
    if status >= 400:
        code = payload.get("__type", "SfnException").rpartition("#")[2]
        raise sfn._ExecutionError(
            f"StepFunctions.{code}Exception" if not code.endswith("Exception") else f"StepFunctions.{code}",
            payload.get("message", ""),
        )
    return payload["executionArn"]


def nested_start_execution(resource: str, input_data: Json) -> Json:
    """Upstream leaves the service's name out of the error."""
    arn = _start_nested(input_data)
    return {"ExecutionArn": arn, "StartDate": _epoch_ms(sfn._executions[arn]["startDate"])}


def nested_start_execution_sync(resource: str, input_data: Json) -> Json:
    """Upstream runs the child in the parent's thread as an express one: unnamed, not listed, not stopped with its
    parent, and its error is the parent's own. On AWS the parent sees States.TaskFailed with the child as Cause."""
    arn = _start_nested(input_data)
    child = sfn._executions[arn]
    try:
        while child["status"] == "RUNNING":
            waiting.check()
            waiting.time.sleep(waiting.POLL_SECONDS)
    except sfn._ExecutionError as error:
        sfn._stop_execution(
            {
                "executionArn": arn,
                "error": error.error,
                "cause": f"the execution that started this one ended: {error.cause}",
            }
        )
        raise
    view = _child_view(child, parse=resource.endswith(".sync:2"))
    if child["status"] != "SUCCEEDED":
        raise sfn._ExecutionError("States.TaskFailed", json.dumps(view))
    return view


def _child_view(child: Json, *, parse: bool) -> Json:
    def text(value: str | None) -> Json:
        return json.loads(value) if parse and value is not None else value

    view = {
        "ExecutionArn": child["executionArn"],
        "Input": text(child["input"]),
        "InputDetails": {"Included": True},
        "Name": child["name"],
        "StartDate": _epoch_ms(child["startDate"]),
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": _epoch_ms(child["stopDate"]),
    }
    if child["status"] == "SUCCEEDED":
        return view | {"Output": text(child["output"]), "OutputDetails": {"Included": True}}
    return view | {"Error": child.get("error"), "Cause": child.get("cause")}


def _epoch_ms(stamp: Json) -> int | None:
    return sfn._iso_to_epoch_ms(stamp) if isinstance(stamp, str) else stamp
