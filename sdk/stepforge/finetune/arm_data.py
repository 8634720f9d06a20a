"""The data of a question's arms, counted offline: what a launch would upload, and what a request comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from stepforge.contracts.decisions import Traffic
from stepforge.economics.tokens import TokenCount
from stepforge.errors import InvalidInput
from stepforge.finetune.datasets import Item, Limits, counted_offline, expert_answer, record_of, write
from stepforge.finetune.spec import Method, ProviderName, TokenRange

REQUESTS_SD = 0.1
"""Of a request's costs, by themselves."""


@dataclass(frozen=True)
class Mean:
    """Tokens of one text in the mean: the least and the most that a provider may count."""

    low: float
    high: float

    @classmethod
    def of(cls, total: TokenRange, count: int) -> Mean:
        return cls(total.low / count, total.high / count)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


class ArmData:
    """Records that are trained on. What several arms ask is counted once."""

    def __init__(self, items: Sequence[Item], *, system: str | None, answer_tokens: int | None) -> None:
        self.items, self.system, self.answer_tokens = items, system, answer_tokens
        self.tokens = cache(self._rows)
        """Of the file that a launch would upload. Raises InvalidInput where it could not."""
        self._means = cache(self._counted)

    def _rows(self, provider: ProviderName, method: Method, model: str, limits: Limits) -> TokenRange:
        whole = method == "rft" and not any(map(expert_answer, self.items))
        with TemporaryDirectory() as folder:
            # What becomes of personal data is a plan's to say: nothing of this file leaves the machine.
            return write(
                self.items,
                Path(folder),
                provider=provider,
                method=method,
                system=self.system,
                limits=limits,
                whole=whole,
                base_model=model,
                personal="keep",
            ).tokens

    @property
    def _has_answers(self) -> bool:
        return self.answer_tokens is not None or any(map(expert_answer, self.items))

    def answers(self, provider: ProviderName) -> TokenCount:
        """What a teacher is taken to say to all prompts: as much as the data's answers."""
        each, count = self._means(provider)[1], len(self.items)
        low, middle, high = each.low * count, (each.low + each.high) / 2 * count, each.high * count
        return TokenCount(math.floor(low), round(middle), math.ceil(high), "as long as the answers given")

    def request(self, provider: ProviderName) -> tuple[Traffic, float]:
        """Tokens of a request, and how far its cost may be off. Raises InvalidInput where no record has an answer."""
        prompt, answer = self._means(provider)
        traffic = Traffic(prompt_tokens=round(prompt.middle, 1), completion_tokens=round(answer.middle, 1))
        return traffic, joint(REQUESTS_SD, prompt.low + answer.low, prompt.high + answer.high)

    def _counted(self, provider: ProviderName) -> tuple[Mean, Mean]:
        """Tokens of a prompt and of an answer, in the mean of the records."""
        if not self._has_answers:
            raise InvalidInput("no record has an answer that would say how long one is: give --answer-tokens")
        asked = [
            tuple(text for text in (self.system, record_of(item).prompt) if text is not None) for item in self.items
        ]
        prompt = Mean.of(counted_offline(asked, provider), len(asked))
        if self.answer_tokens is not None:
            return prompt, Mean(self.answer_tokens, self.answer_tokens)
        said = [(text,) for text in map(expert_answer, self.items) if text]
        return prompt, Mean.of(counted_offline(said, provider), len(said))


def middle(tokens: TokenRange) -> TokenCount:
    return centred(TokenCount(tokens.low, tokens.low, tokens.high, tokens.method))


def centred(count: TokenCount) -> TokenCount:
    """With the middle of the range as what is expected: the question carries how far it may be off."""
    return replace(count, expected=max(1, (count.low + count.high) // 2))


def joint(of_itself: float, low: Decimal | float, high: Decimal | float) -> float:
    """Relative standard deviation of a quote whose quantity lies anywhere between two ends."""
    low, high = float(low), float(high)
    of_range = (high - low) / (high + low) / math.sqrt(3) if high > 0 else 0.0
    return round(math.hypot(of_itself, of_range), 3)
