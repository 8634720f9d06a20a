"""A log record as one line of JSON, redacted."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from stepforge.logs._context import FIXED, IDS, current
from stepforge.logs._redact import Budget, plain, redact

LONGEST_LINE = 256_000
"""Bytes. CloudWatch Logs took events of 256 KiB at most for long, and counts 26 bytes more for each."""
LONGEST_EXCEPTION = 64_000
_SPACE = re.compile(r"\s")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "fields"}
_TAKEN = frozenset((*FIXED, *IDS, "exception", "stack"))
# ASCII alone: escapes keep halves of surrogate pairs and control characters from breaking a line or a terminal.
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


@lru_cache(maxsize=1024)
def _id(value: str) -> str:
    return redact(value, longest=256)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, with milliseconds.

    >>> timestamp(1763801234.5678)
    '2025-11-22T08:47:14.567Z'
    """
    whole, thousandths = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{thousandths:03d}Z"


class JsonLines(logging.Formatter):
    """Events with keys: `logger.info("job ended", extra={"seconds": 3.5})`. A taken key gets an underscore."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        here, budget = current(), Budget()
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "service": self.service,
            "logger": record.name,
            "message": redact(_message(record)),
            **{name: _id(str(here.pop(name))) for name in IDS},
        }
        for name, value in here.items():
            line[name] = plain(value, name, budget)
        for name, value in _event_keys(record):
            line[f"{name}_" if name in _TAKEN else name] = plain(value, name, budget)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact(_ends(self.formatException(record.exc_info)), longest=LONGEST_EXCEPTION)
        elif record.exc_text:
            line["exception"] = redact(_ends(record.exc_text), longest=LONGEST_EXCEPTION)
        if record.stack_info:
            line["stack"] = redact(record.stack_info)
        return self._within(line)

    def _within(self, line: dict[str, Any]) -> str:
        text = _encode(line)
        if len(text) <= LONGEST_LINE:
            return text
        kept = {name: line[name] for name in (*FIXED, *IDS)}
        sizes = {name: len(_encode(value)) for name, value in line.items() if name not in kept}
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)
        while largest and len(_encode({**line, "cut": largest})) > LONGEST_LINE:
            line.pop(largest.pop(0))
        return _encode({**line, "cut": [name for name in sizes if name not in line]})


def _ends(text: str) -> str:
    """A long traceback's beginning and, three times as much of it, its end, which says what happened."""
    if len(text) <= LONGEST_EXCEPTION:
        return text
    head, tail = LONGEST_EXCEPTION // 4, len(text) - LONGEST_EXCEPTION * 3 // 4 + 4_200
    head = max(text.rfind("\n", 0, head), 0)
    # At a space, so that no half of a secret is taken for none.
    space = _SPACE.search(text, tail, tail + 4_000)
    tail = tail + 4_000 if space is None else space.start()
    return f"{text[:head]}\n[cut: {tail - head} characters]\n{text[tail:].lstrip()}"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit must not cost the line, nor end the program
        args = plain(record.args if isinstance(record.args, Mapping) else list(record.args or ()))
        return f"{plain(record.msg)} (its arguments do not fit: {type(error).__name__}: {args})"


def _event_keys(record: logging.LogRecord) -> list[tuple[str, Any]]:
    keys = [(name, value) for name, value in vars(record).items() if name not in _OWN]
    fields = getattr(record, "fields", None)
    return [*keys, *((str(name), value) for name, value in fields.items())] if isinstance(fields, Mapping) else keys


def readable(text: str) -> str:
    """A line for people: time, level, logger, message, keys; what is no line of ours stays as it is.

    >>> readable('{"time":"2025-11-22T08:47:14.567Z","level":"INFO","logger":"a","message":"b","trace_id":"t","n":1}')
    '2025-11-22T08:47:14.567Z INFO a b n=1'
    """
    try:
        line = json.loads(text)
    except ValueError:
        return text
    if not isinstance(line, dict) or not {"time", "level", "message"} <= line.keys():
        return text
    hidden = {*FIXED, *IDS, "exception", "stack"}
    keys = [f"{name}={value}" for name, value in line.items() if name not in hidden]
    head = " ".join(str(line.get(name, "")) for name in ("time", "level", "logger", "message"))
    return "\n".join(filter(None, [" ".join([head, *keys]), line.get("exception"), line.get("stack")]))
