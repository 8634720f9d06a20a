"""Sinks to log into: one that keeps what it gets, slow or failing where asked."""

from __future__ import annotations

import json
import threading
from typing import Any


class Memory:
    """Takes `most` bytes a write, waits for `opened`, and raises while `failure` is set."""

    def __init__(self, *, most: int = 1 << 20) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.failure: Exception | None = None
        self.writes = 0
        self._most = most
        self._bytes = bytearray()

    def write(self, lines: bytes) -> int:
        self.opened.wait(20)
        self.writes += 1
        if self.failure is not None:
            raise self.failure
        self._bytes += lines[: self._most]
        return min(len(lines), self._most)

    def close(self) -> None:
        return

    def text(self) -> str:
        return self._bytes.decode()

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def last(self) -> dict[str, Any]:
        return self.read()[-1]
