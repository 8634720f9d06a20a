"""Which execution a thread works for, and waits that end when the execution is stopped."""

from __future__ import annotations

import contextvars
import time
from dataclasses import dataclass
from typing import Any

import ministack.services.stepfunctions as sfn

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class TaskRun:
    """The attempt that a thread works on. `deadline` is on the monotonic clock."""

    execution: dict[str, Any]
    deadline: float | None = None
    timeout: float | None = None


_current: contextvars.ContextVar[TaskRun | None] = contextvars.ContextVar("stepforge_task_run", default=None)


class Aborted(sfn._ExecutionError):
    """The execution was stopped while a thread worked for it. Neither Retry nor Catch sees it."""

    def __init__(self) -> None:
        super().__init__("States.ExecutionAborted", "the execution was stopped")


def current() -> TaskRun | None:
    return _current.get()


def enter(run: TaskRun) -> None:
    """Set what this thread and those that copy its context work for."""
    _current.set(run)


def stopped() -> bool:
    run = _current.get()
    return run is not None and run.execution["status"] != "RUNNING"


def check() -> None:
    """Raises Aborted where the execution was stopped, States.Timeout where the attempt is over time."""
    run = _current.get()
    if run is None:
        return
    if run.execution["status"] != "RUNNING":
        raise Aborted
    if run.deadline is not None and time.monotonic() > run.deadline:
        raise sfn._ExecutionError("States.Timeout", f"Task timed out after {run.timeout:g} seconds")


def sleep(seconds: float) -> None:
    """Sleep, unless the execution is stopped meanwhile."""
    until = time.monotonic() + seconds
    while (rest := until - time.monotonic()) > 0:
        if stopped():
            raise Aborted
        time.sleep(min(rest, POLL_SECONDS))
    if stopped():
        raise Aborted
