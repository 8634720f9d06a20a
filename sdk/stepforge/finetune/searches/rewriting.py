"""A service of a cloud that rewrites a prompt for a model. It sees the prompt alone, no example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stepforge.economics.tokens import guessed
from stepforge.errors import InvalidInput, ProviderRefused
from stepforge.finetune.job import Completion, Message
from stepforge.finetune.keys import failure, is_loopback, unlogged, unreadable
from stepforge.finetune.metering import Meter, Metered, most_input
from stepforge.finetune.prompts import Task

MOST_TOKENS = 8_192
"""Of one rewritten prompt, as far as the budget is held before it is there."""


class Rewriting:
    """Has the prompt rewritten `times` times, each time from the last one that was no worse."""

    def __init__(self, rewriter: Metered, *, times: int = 1) -> None:
        self._rewriter, self._times = rewriter, times

    def __call__(self, task: Task) -> None:
        now = task.seed_prompt
        for _ in range(self._times):
            asked = [Message(role="user", content=now)]
            rewritten = self._rewriter.ask(asked, max_tokens=MOST_TOKENS).text
            if task.validate(rewritten) >= task.validate(now) and not task.was_refused(rewritten):
                now = rewritten


class BedrockRewriter:
    """Bedrock's OptimizePrompt, metered. It reports no tokens: both texts are booked at the most that a guess gives."""

    def __init__(self, session: Any, target_model_id: str, meter: Meter, *, endpoint_url: str | None = None) -> None:
        """`target_model_id` as Bedrock names the model for which the prompt is."""
        from botocore.config import Config

        # A repeated call is charged again, and the meter would not see it.
        config = Config(retries={"mode": "standard", "total_max_attempts": 1}, user_agent_extra="stepforge")
        self._client = session.client("bedrock-agent-runtime", endpoint_url=endpoint_url, config=config)
        self._model, self.meter, self.local = target_model_id, meter, is_loopback(endpoint_url)
        self.target = f"bedrock:{session.region_name}:{target_model_id}"

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Completion:
        """The prompt of the last message, rewritten."""
        text = messages[-1].content
        most = most_input(messages[-1:])
        self.meter.room(most, max_tokens)
        with self._calling(most, max_tokens):
            answer = self._client.optimize_prompt(input={"textPrompt": {"text": text}}, targetModelId=self._model)
            written = [event["optimizedPromptEvent"] for event in answer["optimizedPrompt"] if _is_prompt(event)]
            found = str(written[-1]["optimizedPrompt"]["textPrompt"]["text"])
        tokens = guessed([text]).high, guessed([found]).high
        self.meter.book(*tokens)
        return Completion(text=found, model=self._model, input_tokens=tokens[0], output_tokens=tokens[1])

    @contextmanager
    def _calling(self, most_input: int, most_output: int) -> Iterator[None]:
        from botocore.eventstream import ParserError
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
        from botocore.parsers import ResponseParserError

        try:
            with unlogged():
                yield
        except ParamValidationError as error:
            raise InvalidInput(f"{self.target} OptimizePrompt: {' '.join(str(error).split())[:300]}") from None
        except ClientError as error:
            # Errors within the stream come after it began, with status 200.
            code = str(error.response["Error"].get("Code", ""))
            status = _STATUS.get(code[:1].lower() + code[1:])
            status = status or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            refusal = failure(self.target, "OptimizePrompt", status=status, code=code, about_content=True)
            if not isinstance(refusal, ProviderRefused) and status != 429:
                self.meter.book(most_input, most_output)
            raise refusal from None
        except (BotoCoreError, ResponseParserError, ParserError) as error:
            self.meter.book(most_input, most_output)
            raise failure(self.target, "OptimizePrompt", status=None, code=type(error).__name__) from None
        except (KeyError, TypeError, IndexError) as error:
            self.meter.book(most_input, most_output)
            raise unreadable(self.target, "OptimizePrompt", type(error)) from None


_STATUS = {
    "throttlingException": 429,
    "internalServerException": 500,
    "badGatewayException": 502,
    "dependencyFailedException": 424,
    "accessDeniedException": 403,
    "validationException": 400,
}


def _is_prompt(event: dict[str, Any]) -> bool:
    return "optimizedPromptEvent" in event
