"""Ways to end a forked training job at a point that a test names. Each is for `forked.fork(prepare=...)`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from stepforge_jobs import durable
from stepforge_jobs.training import loop


def die_at_byte(count: int) -> Callable[[], None]:
    """kill -9 when `count` bytes were written to checkpoints and metrics: what comes before stands in its file."""

    def prepare() -> None:
        left = count
        original = durable.put

        def put(stream: FileIO, data: bytes | memoryview) -> None:
            nonlocal left
            view = memoryview(data).cast("B")
            if len(view) >= left:
                original(stream, view[:left])
                os.kill(os.getpid(), signal.SIGKILL)
            left -= len(view)
            original(stream, view)

        durable.put = put

    return prepare


def count_bytes(path: Path) -> Callable[[], None]:
    """Let the process write to `path` how many bytes it had written to checkpoints and metrics before each step.

    A list, by the 0-based step; its last item is the number at the end.
    """

    def prepare() -> None:
        before = [0]
        put, rate = durable.put, loop.learning_rate

        def counted(stream: FileIO, data: bytes | memoryview) -> None:
            put(stream, data)
            before[-1] += memoryview(data).nbytes
            path.write_text(json.dumps(before))

        def started(work: object, at: int) -> float:
            before.append(before[-1])
            return rate(work, at)  # type: ignore[arg-type]

        durable.put, loop.learning_rate = counted, started

    return prepare


def in_step(step: int, action: Callable[[], None]) -> Callable[[], None]:
    """Do something at the beginning of the 0-based step."""

    def prepare() -> None:
        original = loop.learning_rate

        def rate(work: object, at: int) -> float:
            if at == step:
                action()
            return original(work, at)  # type: ignore[arg-type]

        loop.learning_rate = rate

    return prepare


def die_in_step(step: int) -> Callable[[], None]:
    return in_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


def terminate_in_step(step: int) -> Callable[[], None]:
    return in_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
