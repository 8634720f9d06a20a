"""Anthropic's Messages protocol: POST /v1/messages, and counting tokens. Not covered: streaming, tools, batches."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from stepforge.testing.providers._server import DISCLAIMER, FAKE, Handler, LocalProvider, Reply, Request

Answer = Callable[[str, list[dict[str, Any]]], str]
"""From the system prompt and the messages to what the model says."""


class LocalAnthropic(LocalProvider):
    """Messages on loopback. `answer` makes a model of it; without it, the last message is said again."""

    def __init__(self, *, answer: Answer | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._answer = answer or (lambda system, messages: str(messages[-1]["content"]))
        self.usage = {"input_tokens": 0, "output_tokens": 0}

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [("POST", r"/v1/messages", self._create), ("POST", r"/v1/messages/count_tokens", self._count)]

    def error(self, status: int, code: str, message: str) -> Any:
        return {"type": "error", "error": {"type": code, "message": message}, "request_id": f"req_{FAKE}"}

    def _create(self, request: Request, _: re.Match[str]) -> Reply:
        asked = request.json()
        text = f"{DISCLAIMER} {self._answer(_text(asked.get('system', '')), asked['messages'])}"
        usage = {"input_tokens": _tokens(asked), "output_tokens": min(len(text.split()), asked["max_tokens"])}
        for name, value in usage.items():
            self.usage[name] += value
        return Reply(
            200,
            {
                "id": f"msg_{FAKE}{self.number():06d}",
                "type": "message",
                "role": "assistant",
                "model": asked["model"],
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": usage,
            },
        )

    def _count(self, request: Request, _: re.Match[str]) -> Reply:
        return Reply(200, {"input_tokens": _tokens(request.json())})


def _text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(str(block.get("text", "")) for block in content)


def _tokens(asked: dict[str, Any]) -> int:
    texts = [_text(asked.get("system", "")), *(_text(message["content"]) for message in asked["messages"])]
    return sum(len(text.split()) for text in texts)
