"""A job's log in CloudWatch, read as it grows, and how long the job still takes by what it says there."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stepforge.contracts.metrics import PROGRESS_EVENT

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_WINDOW = 20
_LOOK_EVERY = 6
"""Reads between two looks for new streams: a host that joins later, or the next one after an interruption."""
_MOST_EMPTY = 100
"""Empty pages in a row that one read goes past; the next read goes on behind them."""


@dataclass(frozen=True)
class LogLine:
    """A line that a job printed, and when."""

    at: datetime
    text: str

    def progress(self) -> dict[str, Any] | None:
        """What a progress line says; None for any other line."""
        try:
            data = json.loads(self.text)
        except ValueError:
            return None
        return data if isinstance(data, dict) and data.get("event") == PROGRESS_EVENT else None


class LogTail:
    """Reads what is new in a job's log streams, by forward tokens. A group or stream that is not there yet is empty."""

    def __init__(self, logs: Any, job: str) -> None:
        self._logs, self._job = logs, job
        self._tokens: dict[str, str | None] = {}
        self._reads = 0

    def read(self) -> Iterator[LogLine]:
        if not self._tokens or self._reads % _LOOK_EVERY == 0:
            self._look()
        self._reads += 1
        for stream in list(self._tokens):
            yield from self._read_stream(stream)

    def _look(self) -> None:
        request: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{self._job}/"}
        while True:
            try:
                answer = self._logs.describe_log_streams(**request)
            except self._logs.exceptions.ResourceNotFoundException:
                return
            for stream in answer["logStreams"]:
                self._tokens.setdefault(stream["logStreamName"], None)
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def _read_stream(self, stream: str) -> Iterator[LogLine]:
        """What is new in a stream. Its end is the same token again, as CloudWatch gives pages without lines before it.

        https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
        """
        empty = 0
        while empty < _MOST_EMPTY:
            token = self._tokens[stream]
            position = {"nextToken": token} if token else {"startFromHead": True}
            try:
                page = self._logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, **position)
            except self._logs.exceptions.ResourceNotFoundException:
                return
            # Before the lines are handed out: who does not take them all has had them.
            self._tokens[stream] = page["nextForwardToken"]
            for event in page["events"]:
                yield LogLine(datetime.fromtimestamp(event["timestamp"] / 1000, UTC), event["message"].rstrip("\n"))
            if token == page["nextForwardToken"]:
                return
            empty = 0 if page["events"] else empty + 1


@dataclass(frozen=True)
class Remaining:
    """Seconds until a stage's last step, and what that is computed from."""

    seconds: float
    basis: str


@dataclass
class Estimator:
    """Remaining time of a stage from the times of its last progress lines.

    >>> estimator = Estimator()
    >>> [estimator.add(step, 100, at=2.0 * step) for step in (10, 20)][-1]
    Remaining(seconds=160.0, basis='2 s a step over the last 10 steps')
    """

    _seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def add(self, step: int, steps: int, *, at: float) -> Remaining | None:
        """Take a line in; None where there are no two of them yet. `at` is in seconds of any clock.

        A step that goes back, as after an interruption, begins anew.
        """
        if self._seen and step <= self._seen[-1][0]:
            self._seen.clear()
        self._seen.append((step, at))
        first, began = self._seen[0]
        if step == first:
            return None
        each = max(0.0, at - began) / (step - first)
        return Remaining(round(each * (steps - step), 1), f"{each:.3g} s a step over the last {step - first} steps")
