"""Lambda: what upstream's runtime tells its handlers, which run in processes of their own, and tells about them."""

from __future__ import annotations

import threading
import time
from typing import Any

import ministack.core.lambda_runtime as runtime
import ministack.services.lambda_svc as lambda_svc

from stepforge.local.backend import executions
from stepforge.local.state import AccessKey

Json = Any
_failure = threading.local()
_execute_function_warm = lambda_svc._execute_function_warm
_acquire_worker = runtime.acquire_worker
_invoke = runtime.Worker.invoke
_trace_of_invocation = lambda_svc._xray_trace_id_for_invocation

_ERROR_LINE = 'json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()})'
_TYPED_ERROR_LINE = (
    'json.dumps({"status": "error", "error": str(e), "error_type": type(e).__name__, "trace": traceback.format_exc()})'
)
_PARENT_WATCH = """
import os as _os, threading as _threading, time as _time
def _end_with_parent(_parent=_os.getppid()):
    while _os.getppid() == _parent:
        _time.sleep(0.5)
    _os._exit(1)
_threading.Thread(target=_end_with_parent, daemon=True).start()
"""


def install(key: AccessKey) -> None:
    script = runtime._PYTHON_WORKER_SCRIPT
    if script.count(_ERROR_LINE) != 1:
        raise RuntimeError("the worker script of ministack has changed: move the mends in backend/functions.py")
    # A handler must not go on, and reach the next server, after the server that it ran for was killed.
    runtime._PYTHON_WORKER_SCRIPT = _PARENT_WATCH + script.replace(_ERROR_LINE, _TYPED_ERROR_LINE)

    def execution_credentials(config: Json) -> dict[str, str]:
        """Upstream gives a handler its account number as access key, which the front does not let in."""
        return {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret}

    runtime.execution_credentials = execution_credentials
    lambda_svc.execution_credentials = execution_credentials
    runtime.acquire_worker = acquire_worker
    lambda_svc.acquire_worker = acquire_worker
    runtime.reap_idle_workers = reap_idle_workers
    lambda_svc.reap_idle_workers = reap_idle_workers
    runtime.Worker.invoke = invoke
    lambda_svc._execute_function_warm = execute_function_warm
    lambda_svc._xray_trace_id_for_invocation = trace_of_invocation


def trace_of_invocation(config: Json, inbound_trace_header: str | None = None) -> str | None:
    """Upstream begins a trace with every invocation; a machine's tasks belong to that of its execution."""
    return _trace_of_invocation(config, inbound_trace_header or executions.trace_header() or None)


def invoke(self: runtime.Worker, *args: Any, **kwargs: Any) -> Json:
    """Keep the exception's class and trace, which upstream drops on the way out of the worker."""
    result = _invoke(self, *args, **kwargs)
    _failure.last = result if result.get("status") == "error" else None
    return result


def execute_function_warm(func: Json, event: Json, request_id: str) -> Json:
    """Upstream names every failure Runtime.HandlerError; AWS names it after the exception's class, and the process that
    ended Runtime.ExitError: https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html"""
    _failure.last = None
    result = _execute_function_warm(func, event, request_id)
    failure, body = _failure.last, result.get("body")
    if failure is None or not isinstance(body, dict) or body.get("errorType") != "Runtime.HandlerError":
        return result
    if kind := failure.get("error_type"):
        body |= {
            "errorType": kind,
            "requestId": request_id,
            "stackTrace": failure.get("trace", "").splitlines(keepends=True),
        }
    elif failure.get("error") == "Worker process died":
        body |= {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: Runtime exited"}
    return result


def acquire_worker(
    func_name: str, config: Json, code_zip: bytes, qualifier: str = "$LATEST", max_concurrency: int | None = None
) -> Json:
    """Upstream keeps warm workers through some kinds of update; one of other code or settings must not answer."""
    watched = ("Environment", "Handler", "Timeout", "MemorySize", "Layers", "Role")
    wanted = {name: config.get(name) for name in watched}
    stale = []
    with runtime._lock:
        workers = runtime._workers.get(runtime._worker_key(func_name, config, qualifier), [])
        for worker in list(workers):
            if worker.code_zip != code_zip or {name: worker.config.get(name) for name in watched} != wanted:
                workers.remove(worker)
                if not worker.in_use:
                    stale.append(worker)
    runtime.kill_workers(stale)
    return _acquire_worker(func_name, config, code_zip, qualifier=qualifier, max_concurrency=max_concurrency)


def reap_idle_workers(ttl: float | None = None) -> int:
    """Upstream keeps the first worker of each function for ever: a dozen of them hold .8 GB while nothing runs."""
    limit = time.time() - (runtime._LOCAL_WORKER_TTL if ttl is None else ttl)
    idle = []
    with runtime._lock:
        for workers in runtime._workers.values():
            idle += [worker for worker in workers if not worker.in_use and worker.last_used < limit]
            workers[:] = [worker for worker in workers if worker not in idle]
    runtime.kill_workers(idle)
    return len(idle)
