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

from stepforge.local.backend import stacks

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
            services = app._build_persistence_save_dict()
            get_stacks = services.pop(stacks.SERVICE, None)
            # Read before the others and written after them: what a stack on disk has made is on disk too.
            record = None if get_stacks is None else _encoded(get_stacks)
            news = record is not None and not self._is_saved(stacks.SERVICE, record)
            if get_stacks is not None and record is None:
                self._changed.set()
            for name, get_state in services.items():
                if not news and self._due.get(name, 0) > until:
                    self._changed.set()
                    continue
                start = time.monotonic()
                if (plain := _encoded(get_state)) is not None:
                    self._save(name, plain)
                end = time.monotonic()
                self._due[name] = end + (end - start) / _COST_SHARE
            if record is not None:
                self._save(stacks.SERVICE, record)

    def _is_saved(self, name: str, plain: str) -> bool:
        return self._saved.get(name) == hashlib.sha256(plain.encode()).hexdigest()

    def _save(self, name: str, plain: str) -> None:
        """In the form that `persistence.load_state` reads, by rename."""
        if self._is_saved(name, plain):
            return
        path = Path(persistence.STATE_DIR) / f"{name}.json"
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(
            f'{{"__ministack_format__": {persistence._state_format_version(name)}, "payload": {plain}}}'
        )
        temporary.replace(path)
        self._saved[name] = hashlib.sha256(plain.encode()).hexdigest()


def _encoded(get_state: Callable[[], Any]) -> str | None:
    """A service's state as JSON; None where it has none to keep."""
    state = _snapshot(get_state)
    return None if state is None else _snapshot(lambda: json.dumps(state, default=persistence._json_default))


def _snapshot(read: Callable[[], Any]) -> Any:
    """`read()`, again where another thread changed a dictionary meanwhile."""
    for _ in range(50):
        try:
            return read()
        except RuntimeError:
            time.sleep(0.001)
    return read()
