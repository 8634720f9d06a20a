"""How a model is asked for a step or a whole solution, and which part of what it writes is the answer.

`plain` is the text of prompt and steps, a line each. `chat` sends it through the tokenizer's chat template. `think` has
the system prompt of arXiv 2510.25992 (in our words: think in <think>...</think>, then only the single next step), also
through the template where there is one.
The way travels with a model: in its manifest's metadata, from SRL to RLVR, evaluation and endpoint.
Not covered: templates that need more than messages, and ends of a turn other than the tokenizer's eos_token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stepforge.contracts.records import Record, Step
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.solutions import without_head
from stepforge.contracts.work import Asking
from stepforge.errors import InvalidInput
from stepforge_jobs.training.text import Codec

OPEN, CLOSE = "<think>", "</think>"
THINK = f"Think first, between {OPEN} and {CLOSE}. Then, after {CLOSE}, do as follows. "
STEP = "Write only the single next step of the solution, and nothing after it."
TITLED_STEP = STEP + " Write it as `N. **Title** action`, N being its number."
SOLUTION = "Write only the solution."
_THOUGHT = re.compile(rf"\s*{OPEN}(.*?){CLOSE}(.*)", re.DOTALL)

UNFINISHED = Verdict(accepted=False, reward=0.0, partial=0.0, reason="the completion did not end")
UNTHOUGHT = Verdict(
    accepted=False, reward=0.0, partial=0.0, reason=f"the completion is not {OPEN}thoughts{CLOSE} and then an answer"
)


def answer_of(text: str) -> str | None:
    """What follows the thoughts; None where the text is not one pair of tags at its beginning and then an answer.

    >>> answer_of("<think>seven and five</think> 12"), answer_of("12"), answer_of("<think>a</think>")
    ('12', None, None)
    """
    found = _THOUGHT.fullmatch(text)
    if found is None or any(OPEN in part or CLOSE in part for part in found.groups()):
        return None
    return found[2].strip() or None


@dataclass(frozen=True)
class Asker:
    """Prompts for a model, and answers from its completions.

    Raises InvalidInput where a model that knows nothing but a dataset's words, or no chat, is asked to.
    """

    codec: Codec
    asking: Asking = "plain"

    def __post_init__(self) -> None:
        if self.asking == "think" and self.codec.words is not None:
            raise InvalidInput(
                f"a model that knows {len(self.codec.words)} words and no other text cannot be asked to think: "
                "set asking = 'plain' in this stage"
            )
        if self.asking == "chat" and self.codec.tokenizer.chat_template is None:
            raise InvalidInput("the tokenizer has no chat template: set asking = 'plain' or 'think' in this stage")

    @property
    def step_stops(self) -> frozenset[int]:
        """Tokens that end a step. Chats and thoughts have line breaks, so there only the end of the text does."""
        return self.codec.stops if self.asking == "plain" else frozenset({self.codec.eos})

    def solutions(self, records: Iterable[Record]) -> list[list[int]]:
        """Token ids of a prompt for each record's whole solution."""
        return self.prompts(record.prompt for record in records)

    def prompts(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of a prompt for the whole solution of each problem."""
        if self.asking == "plain":
            return self.codec.contexts(f"{text}\n" for text in texts)
        return [self._chat(THINK + SOLUTION if self.asking == "think" else "", text) for text in texts]

    def steps(self, asked: Iterable[tuple[Record, int]], *, next_title: bool, window: int | None) -> list[list[int]]:
        """Token ids of a prompt for step k (0-based) of each record, after its steps before k."""
        listed = list(asked)
        if self.asking == "plain":
            return self.codec.contexts(plain_context(*item, next_title=next_title, window=window) for item in listed)
        thoughts = THINK if self.asking == "think" else ""
        return [
            self._chat(
                thoughts + (TITLED_STEP if any(step.title for step in record.steps) else STEP),
                _numbered_context(record, k, next_title=next_title, window=window),
            )
            for record, k in listed
        ]

    def answer(self, completion: Sequence[int]) -> str | None:
        """The answer's text, thoughts aside; None where the format fails."""
        if self.asking != "think":
            return self.codec.decode(completion)
        # Tags may be special tokens, which decoding drops by default.
        ids = [token for token in completion if token != self.codec.eos]
        return answer_of(self._thinking + str(self.codec.tokenizer.decode(ids, skip_special_tokens=False)))

    def action(self, completion: Sequence[int]) -> str | None:
        """A step's action, without its number and title; None where it did not end or the format fails."""
        if not completion or completion[-1] not in self.step_stops:
            return None
        answer = self.answer(completion)
        return None if answer is None else without_head(answer)

    def refusal(self, completion: Sequence[int]) -> Verdict | None:
        """Why a whole solution is refused unread; None where it can be judged."""
        if not completion or completion[-1] != self.codec.eos:
            return UNFINISHED
        return UNTHOUGHT if self.answer(completion) is None else None

    @cached_property
    def _thinking(self) -> str:
        """What a chat template has already written of the answer: some open the thoughts themselves."""
        return OPEN if self._text(THINK, "?").rstrip().endswith(OPEN) else ""

    def _chat(self, system: str, user: str) -> list[int]:
        if self.codec.tokenizer.chat_template is None:
            return self.codec.contexts([self._text(system, user)])[0]
        # The template writes the opening token itself.
        return self.codec.targets([self._text(system, user)], end=False)[0]

    def _text(self, system: str, user: str) -> str:
        from jinja2 import TemplateError

        tokenizer: Any = self.codec.tokenizer
        if tokenizer.chat_template is None:
            return f"{system}\n\n{user}\n"
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": user})
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            if not system:
                raise
            # Some templates know no system turn.
            turns = [{"role": "user", "content": f"{system}\n\n{user}"}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(text)


def plain_context(record: Record, k: int, *, next_title: bool = False, window: int | None = None) -> str:
    """The prompt and the steps before k, a line each, with what came of them; `record.context(k)` by default."""
    lines = [record.prompt]
    for _, step in _shown(record, k, window):
        lines += [step.action, step.observation] if step.observation else [step.action]
    if next_title and record.steps[k].title:
        lines.append(f"**{record.steps[k].title}**")
    return "\n".join(lines) + "\n"


def _numbered_context(record: Record, k: int, *, next_title: bool, window: int | None) -> str:
    lines = [record.prompt, ""]
    shown = _shown(record, k, window)
    if shown:
        lines.append("The steps so far:" if len(shown) == k else f"The last {len(shown)} of the {k} steps so far:")
    for number, step in shown:
        lines.append(" ".join(filter(None, (f"{number}.", step.title and f"**{step.title}**", step.action))))
        lines += [f"Observation: {step.observation}"] if step.observation else []
    if next_title and record.steps[k].title:
        lines.append(f"The title of the next step, {k + 1}: **{record.steps[k].title}**")
    return "\n".join(lines).rstrip()


def _shown(record: Record, k: int, window: int | None) -> list[tuple[int, Step]]:
    """Number (from 1) and step of what stands in the context of step k."""
    first = 0 if window is None else max(0, k - window)
    return [(index + 1, record.steps[index]) for index in range(first, k)]
