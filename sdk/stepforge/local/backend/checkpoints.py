"""State that is saved while the backend runs: upstream saves at a graceful end alone, so a kill -9 loses everything."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ministack.app as app
import ministack.core.persistence as persistence
import ministack.services.stepfunctions as sfn

logger = logging.getLogger(__name__)


class Checkpoints:
    """Saves the services that changed, at most once in `every_seconds`, and when `now()` is called."""

    def __init__(self, *, every_seconds: float = 1.0) -> None:
        self._every = every_seconds
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._saved: dict[str, str] = {}

    def start(self) -> None:
        threading.Thread(target=self._loop, name="checkpoints", daemon=True).start()

    def changed(self) -> None:
        self._changed.set()

    def now(self) -> None:
        """Save and return when it is on disk."""
        with self._lock:
            self._changed.clear()
            for name, get_state in app._build_persistence_save_dict().items():
                self._save(name, get_state)

    def _loop(self) -> None:
        while True:
            self._changed.wait(self._every)
            if self._changed.is_set() or any(e["status"] == "RUNNING" for e in _snapshot(sfn._executions.all_values)):
                try:
                    self.now()
                except Exception:
                    logger.exception("a checkpoint failed; the next is due in %s s", self._every)
            time.sleep(self._every)

    def _save(self, name: str, get_state: Callable[[], Any]) -> None:
        state = _snapshot(get_state)
        if state is None:
            return
        plain = _snapshot(lambda: json.dumps(state, default=persistence._json_default))
        digest = hashlib.sha256(plain.encode()).hexdigest()
        if self._saved.get(name) == digest:
            return
        persistence.save_state(name, state)
        self._saved[name] = digest


def _snapshot(read: Callable[[], Any]) -> Any:
    """`read()`, again where another thread changed a dictionary meanwhile."""
    for _ in range(50):
        try:
            return read()
        except RuntimeError:
            time.sleep(0.001)
    return read()
