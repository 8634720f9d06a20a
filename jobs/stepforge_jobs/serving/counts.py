"""What an endpoint has answered since it began, for GET /metrics. SageMaker lets nobody ask for it from outside."""

from __future__ import annotations

import threading
from collections import Counter

from stepforge.contracts.metrics import Count
from stepforge.logs.metrics import Sample, prometheus_text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counts:
    """Requests, seconds and records by path and status.

    >>> counts = Counts()
    >>> counts.add("/invocations", 200, seconds=.25, records=3)
    >>> 'stepforge_records_total{path="/invocations",status="200"} 3.0' in counts.text()
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Counter[tuple[Count, str, int]] = Counter()

    def add(self, path: str, status: int, *, seconds: float, records: int) -> None:
        more: dict[Count, float] = {Count.REQUESTS: 1, Count.REQUEST_SECONDS: seconds, Count.RECORDS: records}
        with self._lock:
            for count, value in more.items():
                self._found[count, path, status] += value  # type: ignore[assignment]

    def text(self) -> str:
        with self._lock:
            found = sorted(self._found.items())
        return prometheus_text(
            Sample(count, value, {"path": path, "status": str(status)}) for (count, path, status), value in found
        )
