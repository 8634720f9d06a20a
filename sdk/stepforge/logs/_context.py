"""Who a line belongs to: trace, request and session, carried along calls, tasks and processes.

A trace is one piece of work across processes, in X-Ray's form. A request is one call, invocation or job of it. A
session is what one person or CI run does in one go. None of them is part of any spec's identity.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

from stepforge.errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")
IDS = ("trace_id", "request_id", "session_id")
VARIABLES = {name: f"STEPFORGE_{name.upper()}" for name in IDS}
"""Environment variables through which a process hands its ids to those that it starts."""
FIXED = ("time", "level", "service", "logger", "message")
_XRAY = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_W3C = re.compile(r"[0-9a-f]{32}")
_ID = re.compile(r"[\x21-\x7e]{1,256}")

_fields: ContextVar[Mapping[str, Any]] = ContextVar("stepforge_logs")
_process: dict[str, str] = {}


def new_trace_id() -> str:
    """An id in the form of https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html"""
    return f"1-{int(time.time()):08x}-{secrets.token_hex(12)}"


def process_ids() -> dict[str, str]:
    """The ids of lines outside of any `context`: those of the environment, else made up once."""
    if not _process:
        made = {"trace_id": new_trace_id(), "request_id": secrets.token_hex(8), "session_id": secrets.token_hex(8)}
        _process.update({name: _given(VARIABLES[name]) or made[name] for name in IDS})
    return _process


def _given(variable: str) -> str:
    """What another process handed over; anything that is no id is left aside, as it may be anybody's."""
    value = os.environ.get(variable, "")
    return value if _ID.fullmatch(value) else ""


def set_process_ids(**ids: str | None) -> None:
    process_ids().update({name: value for name, value in ids.items() if value})


def current() -> dict[str, Any]:
    """The ids and fields that a line logged here would carry."""
    return {**process_ids(), **_fields.get({})}


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Add ids or other fields to every line logged within, in this thread or asyncio task and in tasks started there.

    Raises InvalidInput for a name that every line has already.

    >>> with context(trace_id="1-00000000-000000000000000000000000", run="train-0"):
    ...     current()["run"]
    'train-0'
    """
    if taken := sorted(set(fields).intersection(FIXED)):
        raise InvalidInput(f"context fields {taken} are taken: every line has {', '.join(FIXED)}; choose other names")
    token = _fields.set({**_fields.get({}), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def in_context(function: Callable[P, R]) -> Callable[P, R]:
    """The function with the context of here, for another thread: `Thread(target=in_context(work))`.

    asyncio's tasks and `asyncio.to_thread` take the context along by themselves; `Thread` and executors do not.
    """
    here = _fields.get({})

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # A copy for each call: one Context cannot be entered by two threads at once.
        def enter() -> R:
            _fields.set(here)
            return function(*args, **kwargs)

        return copy_context().run(enter)

    return run


def trace_header() -> str:
    """The trace for `X-Amzn-Trace-Id` and StartExecution's `traceHeader`; empty where its id has not their form."""
    trace_id = str(current()["trace_id"])
    if _W3C.fullmatch(trace_id):
        trace_id = f"1-{trace_id[:8]}-{trace_id[8:]}"
    return f"Root={trace_id}" if _XRAY.fullmatch(trace_id) else ""


def trace_of(header: str) -> str:
    """The trace id of a header; empty where it has none.

    >>> trace_of("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1")
    '1-5759e988-bd862e3fe1be46a994272793'
    """
    found = re.search(r"(?:^|;)\s*Root=(1-[0-9a-f]{8}-[0-9a-f]{24})(?:;|$)", header)
    return found[1] if found else ""


def environment() -> dict[str, str]:
    """Variables for a process started from here, so that its lines carry these ids."""
    here = current()
    return {variable: str(here[name]) for name, variable in VARIABLES.items()}
