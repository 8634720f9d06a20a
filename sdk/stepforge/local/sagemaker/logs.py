"""A process's lines in CloudWatch Logs while it runs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)
_BATCH = 5_000


class LogStream:
    """Collects lines and sends them twice a second. A log that cannot be sent never stops what is logged."""

    def __init__(self, client: Any, group: str, stream: str) -> None:
        self._client, self._group, self._stream = client, group, stream
        self._lines: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self.tail: list[str] = []
        """The last 20 lines."""
        self._create()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _create(self) -> None:
        creations = (
            (self._client.create_log_group, {"logGroupName": self._group}),
            (self._client.create_log_stream, {"logGroupName": self._group, "logStreamName": self._stream}),
        )
        for create, names in creations:
            try:
                create(**names)
            except self._client.exceptions.ResourceAlreadyExistsException:
                continue

    def write(self, line: str) -> None:
        with self._lock:
            self._lines.append({"timestamp": int(time.time() * 1000), "message": line or " "})
            self.tail = [*self.tail[-19:], line]

    def close(self) -> None:
        """Returns when all lines are sent."""
        self._end.set()
        self._thread.join(30)

    def _loop(self) -> None:
        while True:
            ended = self._end.wait(0.5)
            with self._lock:
                lines, self._lines = self._lines, []
            for start in range(0, len(lines), _BATCH):
                try:
                    self._client.put_log_events(
                        logGroupName=self._group, logStreamName=self._stream, logEvents=lines[start : start + _BATCH]
                    )
                except (BotoCoreError, ClientError):
                    logger.exception("lines of %s are lost", self._stream)
            if ended:
                return
