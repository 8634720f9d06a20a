"""`configure`: the one call with which a program, never this library, decides where lines go."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Literal

from stepforge.errors import InvalidInput
from stepforge.logs._context import set_process_ids
from stepforge.logs._handler import LineHandler
from stepforge.logs._levels import LevelFile, level_of
from stepforge.logs._lines import JsonLines
from stepforge.logs._sinks import RotatingFile, Sink, Standard

LEVEL_VARIABLE = "STEPFORGE_LOG_LEVEL"
FILE_VARIABLE = "STEPFORGE_LOG_LEVEL_FILE"


class Logs:
    """What `configure` set up. `with configure(...)` ends it with the block."""

    def __init__(self, handler: LineHandler, formatter: JsonLines, level: int, level_file: Path | None) -> None:
        self.handler, self._formatter, self._level = handler, formatter, level
        self._file = None if level_file is None else LevelFile(level_file, level)
        root = logging.getLogger()
        self._former = (list(root.handlers), root.level)
        root.handlers[:] = [handler]
        root.setLevel(level)
        self._terminates = False
        self.look()

    def look(self) -> None:
        """Read the level file; done once a second where lines are queued."""
        if self._file is not None:
            self._file.look()

    def flush(self, seconds: float | None = None) -> None:
        """Return when all that was logged before is written. Call it before os._exit, which flushes nothing."""
        self.handler.flush(seconds)

    def close(self) -> None:
        """Write what waits and give the root logger back the handlers and level that it had."""
        global _active
        root = logging.getLogger()
        if self.handler in root.handlers:
            root.handlers[:], level = self._former
            root.setLevel(level)
        self.handler.close()
        if self._terminates and signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if _active is self:
            _active = None

    def end_on_sigterm(self) -> None:
        """Write what waits when SIGTERM comes, then end by it. A handler that the program has set stays instead."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
            self._terminates = True

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_active: Logs | None = None


def configure(
    service: str,
    *,
    level: str | int | None = None,
    sink: Literal["stdout", "stderr"] | Path | Sink = "stdout",
    queued: bool = True,
    capacity: int = 8_192,
    max_bytes: int = 20_000_000,
    backups: int = 3,
    rotated: Callable[[int], None] | None = None,
    level_file: Path | None = None,
    trace_id: str | None = None,
    request_id: str | None = None,
    session_id: str | None = None,
) -> Logs:
    """Send every line of this process's loggers, redacted, as JSON to one sink, in place of what was set up before.

    `level` is by default STEPFORGE_LOG_LEVEL or INFO, `level_file` STEPFORGE_LOG_LEVEL_FILE. A `Path` is rotated over
    `max_bytes`, and `backups` older files stay. `capacity` is in lines. Ids are by default those of the environment
    (STEPFORGE_TRACE_ID and so on), else made up. Lines are written to the end on exit and on SIGTERM.
    Raises InvalidInput for a level or a sink that is none.

    >>> with configure("example", sink="stderr", level="WARNING"):
    ...     logging.getLogger("mine").info("not shown")
    """
    global _active
    number = level_of(os.environ.get(LEVEL_VARIABLE) or "INFO" if level is None else level)
    if level_file is None and (given := os.environ.get(FILE_VARIABLE)):
        level_file = Path(given)
    if type(max_bytes) is not int or max_bytes < 1_024 or type(backups) is not int or backups < 1:
        raise InvalidInput(
            f"max_bytes {max_bytes!r}, backups {backups!r}: a log file needs at least 1024 bytes and 1 older file"
        )
    target = _sink(sink, max_bytes, backups, rotated)
    if _active is not None:
        _active.close()
    set_process_ids(trace_id=trace_id, request_id=request_id, session_id=session_id)
    handler = LineHandler(target, queued=queued, capacity=capacity, tick=_look)
    formatter = JsonLines(service)
    handler.setFormatter(formatter)
    _active = Logs(handler, formatter, number, level_file)
    _active.end_on_sigterm()
    if level_file is not None and queued:
        handler.watch()
    return _active


def flush(seconds: float | None = None) -> None:
    """`Logs.flush` of what is configured; nothing where nothing is."""
    if _active is not None:
        _active.flush(seconds)


def _sink(given: object, max_bytes: int, backups: int, rotated: Callable[[int], None] | None) -> Sink:
    if given == "stdout" or given == "stderr":
        return Standard(given)  # type: ignore[arg-type]
    if isinstance(given, Path):
        return RotatingFile(given, max_bytes=max_bytes, backups=backups, rotated=rotated)
    if hasattr(given, "write") and hasattr(given, "close"):
        return given  # type: ignore[no-any-return, return-value]
    raise InvalidInput(f"sink {given!r} is none: give 'stdout', 'stderr', a Path, or an object with write and close")


def _look() -> None:
    if _active is not None:
        _active.look()


def _terminate(number: int, _frame: FrameType | None) -> None:
    def end() -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if _active is None:
        end()
    else:
        _active.handler.after_writing(end)


def _at_exit() -> None:
    if _active is not None:
        _active.handler.write_at_once()


atexit.register(_at_exit)
