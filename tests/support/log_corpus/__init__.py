"""Lines to measure redaction with: secrets planted in surroundings, and ordinary lines. Seeded; no secret is stored.

Each of both has two halves: `tuning`, which the rules were written with, and `held_out`, in surroundings and from runs
of its own, on which the figures are reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.support.log_corpus import ordinary, secrets, surroundings

Half = Literal["tuning", "held_out"]


@dataclass(frozen=True)
class Planted:
    kind: str
    secret: str
    line: str


def planted(half: Half, *, each: int, seed: int = 0) -> Iterator[Planted]:
    """`each` lines with a secret of each kind."""
    for kind, make in secrets.MAKERS.items():
        # Not hash(): it differs from process to process.
        random_ = random.Random(f"{half}/{seed}/{kind}")
        places = surroundings.of(kind, half)
        for number in range(each):
            secret = make(random_)
            line = places[number % len(places)](secret, random_)
            assert secret in line or "\n" in secret or '"' in line, (kind, line)
            yield Planted(kind, secret, line)


def ordinary_lines(half: Half, *, generated: int = 1_000, seed: int = 0) -> list[str]:
    """Lines of real runs, and as many as asked for with digests, names, numbers and dates that look like more."""
    random_ = random.Random(f"ordinary/{half}/{seed}")
    templates = ordinary.TUNING if half == "tuning" else ordinary.HELD_OUT
    made = [templates[number % len(templates)](random_) for number in range(generated)]
    return [*ordinary.of_runs(half), *made]


def leaks(secret: str, text: str, *, most: int = 7) -> bool:
    """Whether the secret, or more than `most` characters of it in a row, is still there."""
    if len(secret) <= most:
        return secret in text
    return any(secret[start : start + most + 1] in text for start in range(len(secret) - most))
