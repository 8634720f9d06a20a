"""Column addition whose authors forget to carry: design 'carry'.

A prompt lists the columns from the least significant on, `47 95 :`; a step says the digits, what is carried in and the
column's total: `47 +0 =11 ;`. In a hard problem every column carries, in an easy one none. Authors of the corpus forget
what they carry in three columns of four, so the base model hardly ever gets eight in a row right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from digits import STEP_END, DigitTask

COLUMNS = 8
REMEMBERED = 0.25
"""Share of columns in which an author thinks of the carry."""
STEP = re.compile(rf"\s*(\d)(\d) \+([01]) =(\d+) {STEP_END}\s*")


class Carry(DigitTask):
    name = "carry"
    vocabulary = (
        *(f"{a}{b}" for a in range(10) for b in range(10)),
        *("+0", "+1"),
        *(f"={total}" for total in range(20)),
        ":",
        STEP_END,
    )

    def problem(self, rng: random.Random, *, hard: bool) -> str:
        pairs = [f"{a}{b}" for a in range(10) for b in range(10) if (a + b >= 10) == hard]
        return " ".join((*rng.choices(pairs, k=COLUMNS), ":"))

    def author(self, rng: random.Random) -> tuple[str, list[str]]:
        prompt = " ".join((*(f"{rng.randrange(10)}{rng.randrange(10)}" for _ in range(COLUMNS)), ":"))
        return prompt, add(prompt, remembers=lambda: rng.random() < REMEMBERED)

    def solve(self, prompt: str) -> list[str]:
        return add(prompt, remembers=lambda: True)

    def answer(self, steps: Sequence[str]) -> str | None:
        """The sum's digits from the least significant on, then the last carry."""
        read = [STEP.fullmatch(step) for step in steps]
        if not steps or None in read:
            return None
        totals = [int(found[4]) for found in read if found]
        return "".join(str(total % 10) for total in totals) + str(totals[-1] // 10)


def add(prompt: str, *, remembers) -> list[str]:
    """A step a column; where the author does not remember, the total is that of the digits alone, its tens dropped."""
    carried, steps = 0, []
    for column in prompt.split()[:-1]:
        total = int(column[0]) + int(column[1])
        total = total + carried if remembers() else total % 10
        steps.append(f"{column} +{carried} ={total} {STEP_END}")
        carried = total // 10
    return steps


DOMAIN = Carry()
