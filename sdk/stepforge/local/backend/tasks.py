"""Step Functions: one attempt after another of a Task, a Parallel or a Map, as
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html describes it.
"""

from __future__ import annotations

import contextvars
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import ministack.services.stepfunctions as sfn

from stepforge.local.backend import waiting

Json = Any
_UNCATCHABLE = ("States.Runtime", "States.DataLimitExceeded")
_NO_LIMIT = 99_999_999


def install() -> None:
    sfn._execute_task = execute_task
    sfn._with_retry_and_catch = with_retry_and_catch
    sfn._error_matches = error_matches
    sfn._scaled_sleep = waiting.sleep
    sfn._send_task_heartbeat = send_task_heartbeat


def error_matches(error_equals: list[str], error: str) -> bool:
    """Upstream lets States.ALL match States.Runtime; on AWS a runtime error can neither be retried nor caught."""
    if error in _UNCATCHABLE:
        return False
    if "States.ALL" in error_equals or error in error_equals:
        return True
    if error == "States.HeartbeatTimeout":
        return "States.Timeout" in error_equals
    return "States.TaskFailed" in error_equals and error != "States.Timeout"


def send_task_heartbeat(data: Json) -> Json:
    """Upstream records a heartbeat that nothing reads; here it moves the moment that the attempt waits for."""
    info = sfn._task_tokens.get(data.get("taskToken"))
    if not info:
        return sfn.error_response_json("TaskDoesNotExist", "Task token not found", 400)
    info["beat"] = time.monotonic()
    return sfn.json_response({})


class _Attempts:
    """Which attempt is due, by a state's Retry: its delay, and when to give up."""

    def __init__(self, retriers: list[Json]) -> None:
        self._retriers, self._used = retriers, {}  # type: ignore[var-annotated]

    @property
    def count(self) -> int:
        return sum(self._used.values())

    def delay(self, error: str) -> float | None:
        """Seconds before the next attempt; None where there is none."""
        for index, retrier in enumerate(self._retriers):
            if not error_matches(retrier.get("ErrorEquals", []), error):
                continue
            used = self._used.get(index, 0)
            if used >= retrier.get("MaxAttempts", 3):
                return None
            self._used[index] = used + 1
            seconds = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** used
            seconds = min(seconds, retrier.get("MaxDelaySeconds", _NO_LIMIT))
            return random.uniform(0, seconds) if retrier.get("JitterStrategy") == "FULL" else seconds
        return None


def with_retry_and_catch(
    state_def: Json, raw_input: Json, ctx: Json, attempt: Callable[[], tuple[Json, str | None]]
) -> tuple[Json, str | None]:
    """Upstream catches the end of a stopped execution, ignores MaxDelaySeconds and caps every delay at 60 s."""
    state, attempts = ctx["State"], _Attempts(state_def.get("Retry", []))
    while True:
        ctx["State"] = {**state, "RetryCount": attempts.count}
        try:
            return attempt()
        except waiting.Aborted:
            raise
        except sfn._ExecutionError as error:
            if (seconds := attempts.delay(error.error)) is not None:
                waiting.sleep(seconds)
                continue
            catcher = sfn._find_matching_catcher(state_def.get("Catch", []), error.error)
            if catcher is None:
                raise
            failure = {"Error": error.error, "Cause": error.cause}
            language = sfn._state_query_language(state_def, ctx)
            return sfn._apply_catcher(catcher, raw_input, ctx, language, failure), catcher["Next"]


def execute_task(state_def: Json, raw_input: Json, execution: Json, ctx: Json) -> tuple[Json, str | None]:
    """Upstream makes one task token for all attempts, ignores HeartbeatSeconds and the paths of both limits, and shares
    the context between the branches of a Parallel, so that one branch reads another's token."""
    ctx = {**ctx, "State": dict(ctx["State"])}

    def attempt() -> tuple[Json, str | None]:
        resource = state_def.get("Resource", "")
        if ".waitForTaskToken" in resource:
            ctx["Task"] = {"Token": sfn.new_uuid()}
        jsonata = sfn._state_query_language(state_def, ctx) == "JSONata"
        if jsonata:
            effective = sfn._apply_jsonata_arguments(state_def, raw_input, ctx)
        else:
            effective = sfn._apply_parameters(state_def, sfn._apply_input_path(state_def, raw_input, ctx), ctx)
        service = "lambda" if "lambda" in resource else resource.split(":")[5] if resource.count(":") > 5 else "states"
        sfn._add_event(
            execution, "TaskScheduled", {"taskScheduledEventDetails": {"resourceType": service, "resource": resource}}
        )
        try:
            result = _run(state_def, resource, effective, raw_input, execution, ctx)
        except waiting.Aborted:
            raise
        except sfn._ExecutionError as error:
            details = {"error": error.error, "cause": error.cause, "resource": resource}
            sfn._add_event(execution, "TaskFailed", {"taskFailedEventDetails": details})
            raise
        sfn._add_event(
            execution,
            "TaskSucceeded",
            {"taskSucceededEventDetails": {"output": json.dumps(result), "resource": resource}},
        )
        if jsonata:
            output = sfn._apply_jsonata_output(state_def, raw_input, ctx, result=result, default=result)
            sfn._apply_state_assign(state_def, raw_input, ctx, result=result)
            return output, sfn._next_or_end(state_def)
        if selector := state_def.get("ResultSelector"):
            result = sfn._resolve_params_obj(selector, result, ctx)
        output = sfn._apply_result_path(state_def, raw_input, result)
        return sfn._apply_output_path(state_def, output, ctx), sfn._next_or_end(state_def)

    return with_retry_and_catch(state_def, raw_input, ctx, attempt)


def _limit(state_def: Json, field: str, raw_input: Json, ctx: Json) -> float | None:
    if path := state_def.get(f"{field}Path"):
        return sfn._resolve_path_or_ctx(path, raw_input, ctx)
    value = state_def.get(field)
    if isinstance(value, str):
        return sfn._jsonata_state_field(state_def, field, "number", raw_input, ctx)
    return value


def _run(state_def: Json, resource: str, effective: Json, raw_input: Json, execution: Json, ctx: Json) -> Json:
    timeout = _limit(state_def, "TimeoutSeconds", raw_input, ctx)
    heartbeat = _limit(state_def, "HeartbeatSeconds", raw_input, ctx)
    deadline = None if timeout is None else time.monotonic() + timeout
    run = waiting.TaskRun(_root(execution), deadline, timeout)
    if ":activity:" in resource:
        return sfn._invoke_resource(resource, effective)
    if ".waitForTaskToken" in resource:
        return _await_token(resource.replace(".waitForTaskToken", ""), effective, ctx["Task"]["Token"], heartbeat, run)
    return _Call(lambda: sfn._invoke_resource(resource, effective), run).result(sees_limits=".sync" in resource)


def _root(execution: Json) -> Json:
    """The execution whose end ends this one: upstream lets the items of a Map go on after their execution was stopped.
    On AWS a Map Run ends with its execution: https://docs.aws.amazon.com/step-functions/latest/dg/concepts-inspect-map-run.html
    """
    known = sfn._map_runs.get(execution.get("mapRunArn"))
    return execution if known is None else _root(sfn._executions[known["executionArn"]])


class _Call:
    """An integration that runs in a thread of its own, so that limits and StopExecution take hold while it does."""

    def __init__(self, function: Callable[[], Json], run: waiting.TaskRun) -> None:
        self._function = function
        self._context = contextvars.copy_context()
        self._context.run(waiting.enter, run)
        self.done = threading.Event()
        self.value: Json = None
        self.error: Exception | None = None
        threading.Thread(target=self._context.copy().run, args=(self._go,), daemon=True).start()

    def _go(self) -> None:
        try:
            self.value = self._function()
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            self.error = error
        self.done.set()

    def check(self) -> None:
        self._context.run(waiting.check)

    def result(self, *, sees_limits: bool) -> Json:
        """A `.sync` integration sees the limits itself, because it has to stop what it started."""
        while not self.done.wait(waiting.POLL_SECONDS):
            if not sees_limits:
                self.check()
        if self.error is not None:
            raise self.error
        return self.value


def _await_token(resource: str, effective: Json, token: str, heartbeat: float | None, run: waiting.TaskRun) -> Json:
    """Upstream swallows the failure of a handler, and waits for an answer that nobody will give."""
    answered = threading.Event()
    info: dict[str, Any] = {
        "event": answered,
        "result": None,
        "error": None,
        "heartbeat": None,
        "beat": time.monotonic(),
    }
    sfn._task_tokens[token] = info
    try:
        call = _Call(lambda: sfn._invoke_resource(resource, effective), run)
        while not answered.wait(waiting.POLL_SECONDS):
            call.check()
            if call.done.is_set() and call.error is not None:
                raise call.error
            if heartbeat is not None and time.monotonic() - info["beat"] > heartbeat:
                raise sfn._ExecutionError("States.HeartbeatTimeout", f"no heartbeat within {heartbeat:g} seconds")
    finally:
        sfn._task_tokens.pop(token, None)
    if failure := info["error"]:
        raise sfn._ExecutionError(failure.get("Error", "States.TaskFailed"), failure.get("Cause", ""))
    try:
        return json.loads(info["result"])
    except ValueError as error:
        raise sfn._ExecutionError(
            "States.Runtime", f"the output sent for the task token is not JSON: {error}"
        ) from error
