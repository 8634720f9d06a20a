"""Bedrock's OptimizePrompt, whose answer is an event stream in the binary form of AWS (vnd.amazon.eventstream)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any
from zlib import crc32

from stepforge.testing.providers._server import FAKE, Refusal, Reply

STREAM = "application/vnd.amazon.eventstream"
Rewrite = Callable[[str], str]
MOST_CHARACTERS = 200_000


class Rewriter:
    """What the service does; `failing` names the exceptions that the next streams end with."""

    def __init__(self, rewrite: Rewrite | None) -> None:
        self._rewrite = rewrite or (lambda prompt: f"{prompt}\n[rewritten by a local fake]")
        self.failing: list[str] = []
        """Such as `throttlingException`, after the first event."""
        self.asked: list[tuple[str, str]] = []
        """Target model and prompt of each call that was done."""

    def answer(self, asked: dict[str, Any]) -> Reply:
        model, text = asked.get("targetModelId"), asked.get("input", {}).get("textPrompt", {}).get("text")
        if not isinstance(model, str) or not isinstance(text, str) or not 0 < len(text) <= MOST_CHARACTERS:
            raise Refusal(400, "ValidationException", "input.textPrompt.text and targetModelId are required")
        stream = event("analyzePromptEvent", {"message": f"[{FAKE}] The prompt is short."})
        if self.failing:
            stream += exception(self.failing.pop(0), "it was not finished")
        else:
            self.asked.append((model, text))
            stream += event("optimizedPromptEvent", {"optimizedPrompt": {"textPrompt": {"text": self._rewrite(text)}}})
        return Reply(200, stream, {"content-type": STREAM})


def event(name: str, payload: Any) -> bytes:
    return _message({":message-type": "event", ":event-type": name, ":content-type": "application/json"}, payload)


def exception(name: str, words: str) -> bytes:
    headers = {":message-type": "exception", ":exception-type": name, ":content-type": "application/json"}
    return _message(headers, {"message": words})


def _message(headers: dict[str, str], payload: Any) -> bytes:
    """Prelude with both lengths and its sum, headers (7 is a string), payload, sum of all."""
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack("!I", crc32(prelude)) + head + body
    return message + struct.pack("!I", crc32(message))
