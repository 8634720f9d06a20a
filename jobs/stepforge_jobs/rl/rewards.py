"""Sequence similarity as arXiv 2510.25992 has it: R = 2M / (|S1| + |S2|) of difflib.SequenceMatcher.

The paper leaves open the order of the two and autojunk, and both change the value: here it is (generated, expert)
without autojunk. `cydifflib` is bit-equal to difflib and 5 to 19 times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Unit = Literal["characters", "words"]

FORMAT_PENALTY = -1.0
"""Reward of a step that did not end: the paper's. It is logged apart, because one of them drowns a group."""


def similarity(generated: str, expert: str, *, unit: Unit = "characters") -> float:
    """Share of matching characters or words, in [0, 1]; 1 for two empty texts."""
    from cydifflib import SequenceMatcher

    first: Sequence[str] = generated.split() if unit == "words" else generated
    second: Sequence[str] = expert.split() if unit == "words" else expert
    return float(SequenceMatcher(None, first, second, autojunk=False).ratio())
