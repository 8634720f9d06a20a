"""Chains of operations whose names the authors mix up: design 'A'.

A state of four digits passes through five operations, each of which replaces digits by fixed others. Two are easy, and
everybody knows them. Of the other six an author does what the name says in 15 % of the steps, always the same wrong
thing in half of them, and any other in the rest. A hard problem holds three or four of the six, an easy one none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from digits import STEP_END, DigitTask

DIGITS, LENGTH = 4, 5
RIGHT, WRONG = 0.15, 0.5
"""How often an author does what a hard operation's name says, and how often the usual wrong thing."""

EASY: dict[str, str] = {"next": "1234567890", "mirror": "9876543210"}
HARD: dict[str, str] = {
    "amber": "3805714296",
    "brass": "7469038152",
    "coral": "5172893640",
    "denim": "8630142975",
    "ebony": "2947560831",
    "fjord": "6091427583",
}
"""What becomes of the digits 0 to 9, in this order."""
OPERATIONS = EASY | HARD
MISTAKEN = dict(zip(HARD, (*list(HARD)[1:], next(iter(HARD))), strict=True))
"""Hard operation to the one that authors usually take it for."""


class Chain(DigitTask):
    name = "chain"
    vocabulary = (*map(str, range(10)), *OPERATIONS, ":", STEP_END)

    def problem(self, rng: random.Random, *, hard: bool) -> str:
        count = rng.choice((3, 4)) if hard else 0
        operations = rng.choices(list(HARD), k=count) + rng.choices(list(EASY), k=LENGTH - count)
        rng.shuffle(operations)
        return self._prompt(rng, operations)

    def author(self, rng: random.Random) -> tuple[str, list[str]]:
        prompt = self._prompt(rng, rng.choices(list(OPERATIONS), k=LENGTH))
        return prompt, walk(prompt, [taken_for(operation, rng) for operation in prompt.split()[DIGITS:-1]])

    def solve(self, prompt: str) -> list[str]:
        return walk(prompt, prompt.split()[DIGITS:-1])

    def answer(self, steps: Sequence[str]) -> str | None:
        """The last state."""
        states = [step.split() for step in steps]
        if not states or any(len(s) != DIGITS + 1 or not all(d.isdecimal() for d in s[:-1]) for s in states):
            return None
        return " ".join(states[-1][:-1])

    def _prompt(self, rng: random.Random, operations: Sequence[str]) -> str:
        return " ".join((*rng.choices("0123456789", k=DIGITS), *operations, ":"))


def taken_for(operation: str, rng: random.Random) -> str:
    """The operation that an author of the corpus carries out."""
    if operation in EASY:
        return operation
    draw = rng.random()
    if draw < RIGHT:
        return operation
    if draw < RIGHT + WRONG:
        return MISTAKEN[operation]
    return rng.choice([other for other in HARD if other not in (operation, MISTAKEN[operation])])


def walk(prompt: str, operations: Sequence[str]) -> list[str]:
    state, steps = prompt.split()[:DIGITS], []
    for operation in operations:
        state = [OPERATIONS[operation][int(digit)] for digit in state]
        steps.append(" ".join((*state, STEP_END)))
    return steps


DOMAIN = Chain()
