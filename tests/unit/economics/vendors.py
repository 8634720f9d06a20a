"""Vendors that count and charge: bills as their documents work them out. Shares no code with the estimator.

Each vendor splits text in its own way and wraps messages in tokens of its own, counts what it charges for, and rounds.
What is public of that is followed; the splitting is our own, made so that the vendors differ by a quarter.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

PIECES = re.compile(r"[A-Za-z]+|[0-9]+|[^ A-Za-z0-9]")
"""A space belongs to the word after it, as in every vocabulary of subwords."""


@dataclass(frozen=True)
class Tokenizer:
    """Letters a piece, digits a piece, tokens around each message, and around each example."""

    letters: int
    digits: int
    message: int
    example: int

    @cache  # noqa: B019, there are four tokenizers: the bill and the sample count the same texts
    def text(self, value: str) -> int:
        total = 0
        for piece in PIECES.findall(value):
            if piece.isalpha():
                # Common words are one token, as in every vocabulary of subwords.
                total += 1 if len(piece) <= self.letters else math.ceil(len(piece) / (self.letters - 1))
            elif piece.isdigit():
                total += math.ceil(len(piece) / self.digits)
            else:
                total += 1
        return total

    def row(self, messages: tuple[str, ...]) -> int:
        return self.example + sum(self.message + self.text(message) for message in messages)


# Of OpenAI's chat format three tokens around a message and three for the answer's start are published.
TOKENIZERS = {
    "openai": Tokenizer(letters=7, digits=3, message=3, example=3),
    "azure": Tokenizer(letters=7, digits=3, message=3, example=3),
    "vertex": Tokenizer(letters=8, digits=1, message=2, example=0),
    "bedrock": Tokenizer(letters=6, digits=2, message=4, example=2),
}


def read(path: Path) -> list[tuple[str, ...]]:
    """The messages of each row of a file that was uploaded, in whatever vendor's form."""
    return [tuple(_texts(json.loads(line))) for line in path.read_bytes().splitlines()]


def _texts(found: Any) -> list[str]:
    if isinstance(found, list):
        return [text for each in found for text in _texts(each)]
    if not isinstance(found, dict):
        return []
    own = [value for name, value in found.items() if name in ("content", "text") and isinstance(value, str)]
    return own + [text for value in found.values() for text in _texts(value)]


def rate_behind(total_usd: float, hours: float, rates: dict[str, float]) -> list[str]:
    """Which of these hourly rates give a published total to the cent."""
    return [name for name, rate in rates.items() if round(rate * hours, 2) == total_usd]


def half_up(value: float) -> float:
    """To the cent. Six decimals first: binary fractions end a hair below the half."""
    return math.floor(round(value * 100, 6) + 0.5) / 100


def supervised(vendor: str, rows: list[tuple[str, ...]], epochs: int, usd: float, per: int) -> float:
    """Tokens in the training file x epochs x price per token; validation is free (Microsoft Learn, SFT example)."""
    return tokens_bill(sum(TOKENIZERS[vendor].row(row) for row in rows), epochs, usd, per)


def tokens_bill(tokens: int, epochs: int, usd: float, per: int) -> float:
    return half_up(tokens * epochs / per * usd)


def vertex_preference(pairs: list[tuple[str, ...]], epochs: int, usd_million: float) -> float:
    return tokens_bill(sum(map(preference_tokens, pairs)), epochs, usd_million, 1_000_000)


def preference_tokens(pair: tuple[str, ...]) -> int:
    """The prompt's tokens twice, then both completions' (Google Cloud, About preference tuning)."""
    split, (prompt, preferred, refused) = TOKENIZERS["vertex"], pair
    asked = 2 * (split.message + split.text(prompt))
    return asked + 2 * split.message + split.text(preferred) + split.text(refused)


@dataclass(frozen=True)
class Rates:
    """What a distilling vendor charges, in dollars for `per` tokens: the teacher's reading and words, the training."""

    teacher_in: float
    teacher_out: float
    training: float
    per: int


def distillation(vendor: str, prompts: list[tuple[str, ...]], responses: list[str], epochs: int, rates: Rates) -> float:
    """The teacher's inference on demand and the customization, each an item of the bill (AWS, Bedrock: model
    distillation; Google Cloud, tuning of open models: pricing). The student reads prompt and response as one example.
    """
    split = TOKENIZERS[vendor]
    asked = said = trained = 0
    for prompt, response in zip(prompts, responses, strict=True):
        asked += sum(split.message + split.text(message) for message in prompt)
        said += split.text(response)
        trained += split.row((*prompt, response))
    items = ((asked, rates.teacher_in), (said, rates.teacher_out), (trained * epochs, rates.training))
    return half_up(sum(half_up(tokens / rates.per * usd) for tokens, usd in items))


def reinforcement(
    started: datetime, ended: datetime, usd_hour: float, *, cap: float | None = None, grader: float = 0.0
) -> float:
    """Time of the training loop in hours, to two decimals, x price; grading beside it (both vendors' RFT pages)."""
    hours = math.floor((ended - started).total_seconds() / 36 + 0.5) / 100
    training = half_up(hours * usd_hour)
    return half_up((training if cap is None else min(training, cap)) + half_up(grader))


def training_job(started: datetime, ended: datetime, instances: int, usd_hour: float) -> float:
    """Billable seconds x instances (AWS, DescribeTrainingJob); part seconds are charged whole."""
    seconds = math.ceil((ended - started).total_seconds())
    return half_up(seconds * instances * usd_hour / 3600)


def month_of_answers(
    hours: float, usd_hour: float, tokens_in: int, tokens_out: int, price: tuple[float, float]
) -> float:
    """Hosting by the hour and tokens by the million (Microsoft Learn, example for o4-mini)."""
    return half_up(hours * usd_hour + tokens_in / 1e6 * price[0] + tokens_out / 1e6 * price[1])


def rows(rng: random.Random, count: int) -> list[tuple[str, ...]]:
    """Conversations: prose, tables of numbers and code, of very different lengths."""
    words = [
        "".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.choice((2, 3, 4, 5, 6, 7, 9, 12)))) for _ in range(900)
    ]

    def text(length: int) -> str:
        parts = []
        for _ in range(length):
            kind = rng.random()
            if kind < 0.88:
                parts.append(words[min(899, int(rng.paretovariate(0.7)))])
            elif kind < 0.94:
                parts.append(str(rng.randrange(10 ** rng.randint(1, 7))))
            else:
                parts.append(rng.choice(("();", "{", "}\n", "==", ",", ".\n", "é", "—")))
        return " ".join(parts)

    system = text(rng.randint(5, 60))
    return [
        (system, text(int(rng.lognormvariate(3.5, 0.7)) + 1), text(int(rng.lognormvariate(3.2, 0.8)) + 1))
        for _ in range(count)
    ]


def moment(rng: random.Random) -> tuple[datetime, datetime]:
    started = datetime(2026, 11, 1, 2, 30) + timedelta(seconds=rng.uniform(0, 1e6))
    return started, started + timedelta(seconds=rng.uniform(1_800, 90_000))
