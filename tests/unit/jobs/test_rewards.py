"""Similarity against difflib itself."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest

from stepforge_jobs.rl.rewards import similarity

ALPHABETS = ["ab", "abcdefgh \n", "AU1AU2 ;", "héß漢字🙂👩‍👩‍👧é\u0301", "\x00\ud7ff\U0010ffff"]


def pairs(alphabet: str, count: int) -> list[tuple[str, str]]:
    rng = random.Random(alphabet)
    made = []
    for _ in range(count):
        first = "".join(rng.choices(alphabet, k=rng.randrange(60)))
        second = list(first)
        for _ in range(rng.randrange(20)):
            second.insert(rng.randrange(len(second) + 1), rng.choice(alphabet))
        made.append(
            (first, "".join(second) if rng.random() < 0.7 else "".join(rng.choices(alphabet, k=rng.randrange(60))))
        )
    return made


@pytest.mark.parametrize("alphabet", ALPHABETS, ids=["two", "text", "grammar", "unicode", "edges"])
def test_similarity_is_bit_equal_to_difflib_of_generated_and_expert(alphabet: str) -> None:
    for generated, expert in pairs(alphabet, 2_000):
        assert similarity(generated, expert) == SequenceMatcher(None, generated, expert, autojunk=False).ratio()
        words = SequenceMatcher(None, generated.split(), expert.split(), autojunk=False).ratio()
        assert similarity(generated, expert, unit="words") == words


def test_autojunk_is_off_where_it_would_change_the_value() -> None:
    rng = random.Random(0)
    expert, generated = "".join(rng.choices("abcdefgh", k=300)), "".join(rng.choices("abcdefgh", k=280))
    assert similarity(generated, expert) != SequenceMatcher(None, generated, expert).ratio()
    assert similarity(generated, expert) == SequenceMatcher(None, generated, expert, autojunk=False).ratio()


def test_the_order_is_generated_then_expert_because_the_ratio_is_not_symmetric() -> None:
    generated, expert = "tide", "diet"
    assert similarity(generated, expert) == SequenceMatcher(None, "tide", "diet", autojunk=False).ratio() == 0.25
    assert similarity(expert, generated) == 0.5
