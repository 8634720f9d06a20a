"""Vertex's zero-shot prompt optimiser: one call that proposes a better prompt, without data.

Google says that it is for any model of Google's. Here a proposal is only a candidate: it is scored with the model that
will be asked. Sent as google-cloud-aiplatform 2.7 sends `client.prompts.optimize`, and not through it: that client logs
an answer of another shape as a warning, prompt and all, and loads 150 MiB that functions have no room for. The answer
says no tokens, and no page says a price. Not covered: the few-shot optimiser, Gemini Nano.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stepforge.economics.tokens import guessed
from stepforge.errors import MissingExtra, ProviderUnavailable
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import failure, is_loopback, unreadable
from stepforge.finetune.metering import Meter, most_input
from stepforge.finetune.vertex_calls import SCOPE, calling, root_of, session_of

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_CALL = "tuningJobs.optimizePrompt"


class VertexRewriter:
    """The optimiser of one project and location, metered: both texts are booked at the most that a guess gives."""

    def __init__(
        self,
        meter: Meter,
        *,
        project: str,
        location: str,
        credentials: Credentials | None = None,
        base_url: str | None = None,
        timeout_seconds: float = 120,
    ) -> None:
        """`credentials` are google-auth's; without them its default search applies. Raises MissingExtra."""
        try:
            import google.auth
            import google.auth.transport.requests
        except ImportError as error:
            raise MissingExtra(error.name or "google-auth", extra="vertex") from error
        self.target = f"vertex:{project}:{location}" + (f":{base_url}" if base_url else "")
        self.meter, self.local = meter, is_loopback(base_url)
        if credentials is None:
            with calling(self.target, "credentials"):
                credentials, _ = google.auth.default(scopes=[SCOPE])
        self._session: Any = session_of(credentials)
        self._url = (
            f"{root_of(location, base_url)}/v1beta1/projects/{project}/locations/{location}/tuningJobs:optimizePrompt"
        )
        self._timeout = timeout_seconds

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """The prompt of the last message, rewritten by Google's guidelines; sent once. Raises OverBudget before it.

        `max_tokens` is only what the budget is held against: the service takes no such limit.
        """
        text, most = messages[-1].content, most_input(messages[-1:])
        self.meter.room(most, max_tokens)
        try:
            found = self._rewritten(text)
        except ProviderUnavailable:
            self.meter.book(most, max_tokens)
            raise
        tokens = guessed([text]).high, guessed([found]).high
        self.meter.book(*tokens)
        return Completion(text=found, model=self.target, input_tokens=tokens[0], output_tokens=tokens[1])

    def _rewritten(self, prompt: str) -> str:
        body = {"content": {"parts": [{"text": prompt}], "role": "user"}}
        with calling(self.target, _CALL, about_content=True):
            answer = self._session.post(self._url, json=body, timeout=self._timeout)
        if answer.status_code != 200:
            raise failure(self.target, _CALL, status=answer.status_code, about_content=True)
        with calling(self.target, _CALL, about_content=True):
            found = suggested(answer.json())
        if not found:
            raise unreadable(self.target, _CALL, type(answer))
        return found


def suggested(pieces: Any) -> str:
    """The prompt in a streamed answer: pieces of a JSON text, in a fence of Markdown or not. Empty where there is none.

    >>> suggested([{"content": {"parts": [{"text": '```json\\n{"suggested_prompt": '}]}},
    ...            {"content": {"parts": [{"text": '"Be brief."}\\n```'}]}}])
    'Be brief.'
    """
    if not isinstance(pieces, list):
        return ""
    parts = [
        piece["content"]["parts"][0].get("text") or "" for piece in pieces if piece.get("content", {}).get("parts")
    ]
    text = "".join(parts)
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return ""
    found = json.loads(text[start : end + 1]).get("suggested_prompt")
    return found.strip() if isinstance(found, str) else ""
