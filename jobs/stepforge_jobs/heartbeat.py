"""A job's sign of life: `output/heartbeat.json`, and a line where nothing else was said, in the longest step too.

A thread of its own beats, so a beat says that the process lives; `step_seconds`, how long the step under way has taken,
says whether it gets anywhere. Not covered: who decides that a step takes too long.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from stepforge_jobs import durable
from stepforge_jobs.job import Progress

NAME = "heartbeat.json"
INTERVAL_SECONDS = 10.0


class Heartbeat:
    """Beats while its `with` block runs.

    `time` is in seconds of the epoch; `stage`, `step` and `steps` are those of the last progress, where there was one.
    """

    def __init__(self, folder: Path, progress: Progress, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._path = folder / NAME
        self._progress = progress
        self._interval = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        self._beat()
        while not self._ended.wait(self._interval):
            self._beat()

    def _beat(self) -> None:
        now, progress = time.monotonic(), self._progress
        beat = {"time": round(time.time(), 3), **progress.position, "step_seconds": round(now - progress.moved, 1)}
        aside = self._path.with_name(f".{NAME}.tmp")
        try:
            aside.write_text(json.dumps(beat))
            aside.replace(self._path)
        except OSError as error:
            # The line below still tells; the next checkpoint says what is wrong with the disk.
            if not durable.is_full(error):
                raise
        if now - progress.said >= self._interval:
            progress.event("heartbeat", **beat)
