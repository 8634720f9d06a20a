"""How many tokens a data set has, with a range that is stated.

Providers split text differently and wrap each message in some tokens of their own, so a count by another tokenizer is
off by a share that nobody knows. A few dozen records counted by the provider (its count endpoint, its library, or the
bill of an earlier job) tell what a byte, a word, a digit and a record come to.
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
STANDARD_ERRORS = 3
LEAST_ERROR = 0.01
"""Of the total, on either side: a few dozen records do not show the odd ones."""


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one pass over the data. `low`..`high` is to hold the truth; equal where counted."""

    low: int
    expected: int
    high: int
    method: str

    def times(self, factor: int) -> TokenCount:
        return TokenCount(self.low * factor, self.expected * factor, self.high * factor, self.method)

    def plus(self, other: TokenCount) -> TokenCount:
        method = self.method if self.method == other.method else f"{self.method}; {other.method}"
        return TokenCount(self.low + other.low, self.expected + other.expected, self.high + other.high, method)


def guessed(texts: Sequence[str]) -> TokenCount:
    """From bytes alone: a wide range, because neither tokenizer nor language is known."""
    size = sum(len(text.encode()) for text in texts)
    high, expected, low = (math.ceil(size / each) for each in GUESS_BYTES)
    return TokenCount(low, expected, high, f"guessed: {GUESS_BYTES[0]:g} to {GUESS_BYTES[2]:g} bytes a token")


@dataclass(frozen=True)
class Calibration:
    """tokens = record + bytes + words + digits + tokens of another tokenizer, each with a weight that is fitted to
    records that the provider counted. Digits, since tokenizers differ most in how many of them they join."""

    weights: tuple[float, ...]
    residual_sd: float
    """Of one record, for the square root of its bytes: errors of single words add up as a random walk."""
    sample: int
    normal: tuple[tuple[float, ...], ...]
    """Normal equations of the fit, from which its own uncertainty follows."""
    proxy: Callable[[str], int] | None

    @classmethod
    def fit(
        cls, texts: Sequence[str], counts: Sequence[int], *, proxy: Callable[[str], int] | None = None
    ) -> Calibration:
        """Least squares, weighted by size. Draw the sample at random: the shortest or first records are not like the
        rest. `proxy` counts the tokens of a text as some other tokenizer does, which real ones resemble.

        Raises InvalidInput for fewer than 20 records, or for unequal numbers of texts and counts.
        """
        if len(texts) != len(counts):
            raise InvalidInput(f"{len(texts)} texts and {len(counts)} counts: give one count for each text")
        if len(texts) < LEAST_SAMPLE:
            raise InvalidInput(f"{len(texts)} counted records are too few to calibrate: count {LEAST_SAMPLE} or more")
        rows = [_features(text, proxy) for text in texts]
        certain = [1 / _size(text) for text in texts]
        size = range(len(rows[0]))
        normal = [[sum(w * row[i] * row[j] for w, row in zip(certain, rows, strict=True)) for j in size] for i in size]
        for i in size:  # a trace of ridge, so that features that move together still have an answer
            normal[i][i] *= 1 + 1e-9
        known = list(zip(certain, rows, counts, strict=True))
        weights = _solved(normal, [sum(w * row[i] * count for w, row, count in known) for i in size])
        left = sum(w * (count - _dot(weights, row)) ** 2 for w, row, count in known)
        sd = math.sqrt(left / (len(rows) - len(weights)))
        return cls(tuple(weights), sd, len(rows), tuple(map(tuple, normal)), proxy)

    def estimate(self, texts: Sequence[str]) -> TokenCount:
        """Tokens of texts that were not counted. The range is three standard errors, of the fit and of what it leaves
        unexplained, and a hundredth at least."""
        rows = [_features(text, self.proxy) for text in texts]
        sums = [sum(row[i] for row in rows) for i in range(len(self.weights))]
        total = _dot(self.weights, sums)
        of_fit = _dot(sums, _solved(self.normal, sums))
        error = STANDARD_ERRORS * self.residual_sd * math.sqrt(sum(map(_size, texts)) + max(0.0, of_fit))
        error = max(error, LEAST_ERROR * total)
        low, high = max(0, math.floor(total - error)), max(0, math.ceil(total + error))
        return TokenCount(low, max(0, round(total)), high, f"calibrated on {self.sample} records that were counted")


def _size(text: str) -> int:
    return len(text.encode()) + 1


def _features(text: str, proxy: Callable[[str], int] | None) -> tuple[float, ...]:
    digits = sum(character.isdigit() for character in text)
    found = (1.0, float(len(text.encode())), float(len(_WORD.findall(text))), float(digits))
    return found if proxy is None else (*found, float(proxy(text)))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _solved(equations: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Gauss, with pivots. What no equation says anything of is 0."""
    matrix, right = [list(row) for row in equations], list(values)
    size = len(right)
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
