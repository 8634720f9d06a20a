"""One Claude model by Anthropic's own client, metered. Needs the extra `anthropic`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stepforge.errors import MissingExtra
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import Key, failure, is_loopback, reveal, unlogged, unreadable
from stepforge.finetune.metering import Meter, most_input


class AnthropicModel:
    """One Claude model, metered."""

    def __init__(
        self, api_key: Key, model: str, meter: Meter, *, base_url: str | None = None, timeout_seconds: float = 60
    ) -> None:
        """Raises MissingExtra without the package `anthropic`."""
        try:
            import anthropic
        except ImportError as error:
            raise MissingExtra("anthropic", extra="anthropic") from error
        self._sdk, self._key = anthropic, reveal(api_key, what="the API key")
        # A repeated call is charged again, and the meter would not see it.
        self._client = anthropic.Anthropic(
            api_key=self._key,
            base_url=base_url,
            timeout=timeout_seconds,
            max_retries=0,
            # Prompts go to the address that was given, and to none that it names.
            http_client=anthropic.DefaultHttpxClient(follow_redirects=False),
        )
        self.model, self.meter, self.local = model, meter, is_loopback(base_url)
        self.target = f"anthropic:{model}"

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """One call. Raises OverBudget before it, where it might exceed the budget.

        A call whose answer was lost is booked at the most that it can have cost.
        """
        system = "\n".join(m.content for m in messages if m.role == "system")
        turns = [{"role": m.role, "content": m.content} for m in messages if m.role != "system"]
        most = most_input(messages)
        self.meter.room(most, max_tokens)
        with self._calling(most, max_tokens):
            answer = self._client.messages.create(
                model=self.model,
                max_tokens=max_tokens,
                messages=turns,  # type: ignore[arg-type]
                system=system or self._sdk.omit,
            )
            usage, blocks = answer.usage, answer.content
            text = "".join(block.text for block in blocks if block.type == "text")
            tokens = usage.input_tokens, usage.output_tokens
        self.meter.book(*tokens)
        return Completion(text=text, model=answer.model, input_tokens=tokens[0], output_tokens=tokens[1])

    @contextmanager
    def _calling(self, most_input: int, most_output: int) -> Iterator[None]:
        try:
            with unlogged():
                yield
        except self._sdk.APIStatusError as error:
            if error.status_code >= 500:
                self.meter.book(most_input, most_output)
            body = error.body if isinstance(error.body, dict) else {}
            said = body.get("error") or {}
            status, code = error.status_code, str(said.get("type") or "")
            # A 400 like that of a prompt that is too long, but no other prompt would be answered either.
            if status == 400 and "credit balance" in str(said.get("message")).lower():
                status, code = 402, "credit balance too low (sent with status 400)"
            raise failure(
                self.target, "messages", status=status, code=code, secrets=[self._key], about_content=True
            ) from None
        except self._sdk.APIConnectionError as error:
            self.meter.book(most_input, most_output)
            raise failure(self.target, "messages", status=None, code=type(error).__name__) from None
        except (self._sdk.APIError, TypeError, AttributeError) as error:
            self.meter.book(most_input, most_output)
            raise unreadable(self.target, "messages", type(error)) from None
