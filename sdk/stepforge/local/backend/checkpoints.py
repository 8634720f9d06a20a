"""State that is saved while the backend runs: upstream saves at a graceful end alone, so a kill -9 loses everything."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ministack.app as app
import ministack.core.persistence as persistence
import ministack.services.stepfunctions as sfn

logger = logging.getLogger(__name__)


_COST_SHARE = 0.04


class Checkpoints:
    """Saves the services that changed, at most once in `every_seconds`, and all of them when `now()` is called.

    A service whose state takes long to write is looked at less often, so that each costs at most 4 % of a core.
    """

    def __init__(self, *, every_seconds: float = 1.0) -> None:
        self._every = every_seconds
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._saved: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def start(self) -> None:
        threading.Thread(target=self._loop, name="checkpoints", daemon=True).start()

    def changed(self) -> None:
        self._changed.set()

    def now(self) -> None:
        """Save and return when it is on disk."""
        self._save_all(float("inf"))

    def _loop(self) -> None:
        while True:
            self._changed.wait(self._every)
            if self._changed.is_set() or any(e["status"] == "RUNNING" for e in _snapshot(sfn._executions.all_values)):
                try:
                    self._save_all(time.monotonic())
                except Exception:
                    logger.exception("a checkpoint failed; the next is due in %s s", self._every)
            time.sleep(self._every)

    def _save_all(self, until: float) -> None:
        with self._lock:
            self._changed.clear()
            for name, get_state in app._build_persistence_save_dict().items():
                if self._due.get(name, 0) > until:
                    self._changed.set()
                    continue
                start = time.monotonic()
                self._save(name, get_state)
                end = time.monotonic()
                self._due[name] = end + (end - start) / _COST_SHARE

    def _save(self, name: str, get_state: Callable[[], Any]) -> None:
        """In the form that `persistence.load_state` reads, by rename."""
        state = _snapshot(get_state)
        if state is None:
            return
        plain = _snapshot(lambda: json.dumps(state, default=persistence._json_default))
        digest = hashlib.sha256(plain.encode()).hexdigest()
        if self._saved.get(name) == digest:
            return
        path = Path(persistence.STATE_DIR) / f"{name}.json"
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(
            f'{{"__ministack_format__": {persistence._state_format_version(name)}, "payload": {plain}}}'
        )
        temporary.replace(path)
        self._saved[name] = digest


def _snapshot(read: Callable[[], Any]) -> Any:
    """`read()`, again where another thread changed a dictionary meanwhile."""
    for _ in range(50):
        try:
            return read()
        except RuntimeError:
            time.sleep(0.001)
    return read()
