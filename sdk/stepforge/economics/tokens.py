"""How many tokens a data set has: exactly where the provider's counter is at hand, else with a range that is stated.

Providers split text differently and wrap each message in some tokens of their own, so a count by another tokenizer is
off by a share that nobody knows. A few dozen records counted by the provider (its count endpoint, its library, or the
bill of an earlier job) tell what a byte, a word and a record come to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepforge.errors import InvalidInput

_WORD = re.compile(r"\w+|[^\w\s]")
GUESS_BYTES = (2.5, 4.0, 5.5)
"""Bytes of a token that are assumed without a counter: high, middle and low count. English prose is near 4."""
LEAST_SAMPLE = 20


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one pass over the data. `low`..`high` is to hold the truth 19 times of 20; equal where counted."""

    low: int
    expected: int
    high: int
    method: str

    def times(self, factor: int) -> TokenCount:
        return TokenCount(self.low * factor, self.expected * factor, self.high * factor, self.method)

    def plus(self, other: TokenCount) -> TokenCount:
        method = self.method if self.method == other.method else f"{self.method}; {other.method}"
        return TokenCount(self.low + other.low, self.expected + other.expected, self.high + other.high, method)


def counted(texts: Sequence[str], counter: Callable[[str], int]) -> TokenCount:
    """Every record counted by the provider's own counter."""
    total = sum(counter(text) for text in texts)
    return TokenCount(total, total, total, f"counted, {len(texts)} records")


def guessed(texts: Sequence[str]) -> TokenCount:
    """From bytes alone: a wide range, because neither tokenizer nor language is known."""
    size = sum(len(text.encode()) for text in texts)
    high, expected, low = (math.ceil(size / each) for each in GUESS_BYTES)
    return TokenCount(low, expected, high, f"guessed: {GUESS_BYTES[0]:g} to {GUESS_BYTES[2]:g} bytes a token")


@dataclass(frozen=True)
class Calibration:
    """tokens = per_record + per_byte x bytes + per_word x words, fitted to records that the provider counted."""

    per_record: float
    per_byte: float
    per_word: float
    residual_sd: float
    """Of one record."""
    sample: int

    @classmethod
    def fit(cls, texts: Sequence[str], counts: Sequence[int]) -> Calibration:
        """Least squares. Draw the sample at random: the shortest or first records are not like the rest.

        Raises InvalidInput for fewer than 20 records, or for unequal numbers of texts and counts.
        """
        if len(texts) != len(counts):
            raise InvalidInput(f"{len(texts)} texts and {len(counts)} counts: give one count for each text")
        if len(texts) < LEAST_SAMPLE:
            raise InvalidInput(f"{len(texts)} counted records are too few to calibrate: count {LEAST_SAMPLE} or more")
        rows = [_features(text) for text in texts]
        weights = _least_squares(rows, [float(count) for count in counts])
        errors = [
            count - sum(w * x for w, x in zip(weights, row, strict=True))
            for row, count in zip(rows, counts, strict=True)
        ]
        sd = math.sqrt(sum(error * error for error in errors) / (len(rows) - 3))
        per_record, per_byte, per_word = weights
        return cls(per_record, per_byte, per_word, residual_sd=sd, sample=len(rows))

    def estimate(self, texts: Sequence[str]) -> TokenCount:
        """Tokens of these texts. The range is two standard errors: of the fit, and of what it leaves unexplained."""
        weights = (self.per_record, self.per_byte, self.per_word)
        total = sum(sum(w * x for w, x in zip(weights, _features(text), strict=True)) for text in texts)
        count = len(texts)
        error = 2 * self.residual_sd * math.sqrt(count + 3 * count**2 / self.sample)
        low, high = max(0, math.floor(total - error)), math.ceil(total + error)
        return TokenCount(low, max(0, round(total)), high, f"calibrated on {self.sample} records that were counted")


def _features(text: str) -> tuple[float, float, float]:
    return 1.0, float(len(text.encode())), float(len(_WORD.findall(text)))


def _least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Normal equations with a trace of ridge, so that features that move together still have an answer."""
    size = len(rows[0])
    matrix = [[sum(row[i] * row[j] for row in rows) for j in range(size)] for i in range(size)]
    right = [sum(row[i] * value for row, value in zip(rows, values, strict=True)) for i in range(size)]
    for i in range(size):
        matrix[i][i] *= 1 + 1e-9
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        right[i], right[pivot] = right[pivot], right[i]
        for k in range(i + 1, size):
            share = matrix[k][i] / matrix[i][i] if matrix[i][i] else 0.0
            matrix[k] = [a - share * b for a, b in zip(matrix[k], matrix[i], strict=True)]
            right[k] -= share * right[i]
    found = [0.0] * size
    for i in reversed(range(size)):
        rest = right[i] - sum(matrix[i][j] * found[j] for j in range(i + 1, size))
        found[i] = rest / matrix[i][i] if matrix[i][i] else 0.0
    return found
