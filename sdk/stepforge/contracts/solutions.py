"""Solutions written as text, `N. **Title** action` a step (arXiv 2510.25992), and what of them is no such step.

What does not conform is dropped, with the reason. The paper does not say what becomes of the steps after a dropped one;
here the trajectory ends before it, because their context would lack what they build on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from stepforge.contracts.base import Contract
from stepforge.contracts.records import Step

Why = Literal["before the first step", "no title", "no action", "number out of order", "after a dropped step"]
MOST_EXAMPLES = 5
SHOWN = 120
_NUMBER = r"(\d{1,4})[.)]"
_TITLE = r"\*\*([^\n]+?)\*\*(?!\*):?\s*"
_NUMBERED = re.compile(rf"^[ \t]*{_NUMBER}(?:[ \t]+|(?=\*\*))(.*)$")
_TITLED = re.compile(rf"^{_TITLE}")
HEAD = re.compile(rf"^\s*{_NUMBER}\s*{_TITLE}")
"""Number and title at the beginning of a step."""


class Dropped(Contract):
    """A piece of a solution that is no step."""

    why: Why
    text: str


class Solution(Contract):
    steps: tuple[Step, ...]
    dropped: tuple[Dropped, ...] = ()


class ParsingReport(Contract):
    """What was read of all solutions of a dataset."""

    solutions: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=0)] = 0
    records_without_steps: Annotated[int, Field(ge=0)] = 0
    """Of these, records that have nothing else to learn from are left out of the dataset."""
    dropped: dict[Why, int] = {}
    """Reason to number of pieces."""
    examples: tuple[Dropped, ...] = ()
    """Up to five of each reason, cut to 120 characters."""


def parse_solution(text: str) -> Solution:
    """Steps of a solution. Lines without a number belong to the step above; line ends within a step become spaces.

    >>> parse_solution("1. **Ones** 7 + 5 = 12\\n2. **Tens** 10 + 20").steps[1].action
    '10 + 20'
    >>> [dropped.why for dropped in parse_solution("Let us see.\\n1. **Ones** 12\\n3. **Tens** 42").dropped]
    ['before the first step', 'number out of order']
    """
    steps: list[Step] = []
    dropped: list[Dropped] = []
    broken = False
    for number, body in _pieces(text):
        why: Why | None = None
        head = _TITLED.match(body)
        title = "" if head is None else head[1].strip().rstrip(":. ")
        action = "" if head is None else _one_line(body[head.end() :])
        if number is None:
            why = "before the first step"
        elif broken:
            why = "after a dropped step"
        elif number != len(steps) + 1:
            why = "number out of order"
        elif not title:
            why = "no title"
        elif not action:
            why = "no action"
        if why is None:
            steps.append(Step(action=action, title=title))
        else:
            dropped.append(Dropped(why=why, text=body if number is None else f"{number}. {body}"))
            broken = broken or number is not None
    return Solution(steps=tuple(steps), dropped=tuple(dropped))


def without_head(text: str) -> str:
    """A step's action: what follows its number and title, and the text itself where it has none.

    >>> without_head("2. **Tens** 10 + 20"), without_head("10 + 20")
    ('10 + 20', '10 + 20')
    """
    return HEAD.sub("", text, count=1)


def report_of(solutions: Iterable[Solution]) -> ParsingReport:
    """Counts of what was read and dropped, with examples."""
    listed = list(solutions)
    pieces = [piece for solution in listed for piece in solution.dropped]
    examples: dict[Why, list[Dropped]] = {}
    for piece in pieces:
        examples.setdefault(piece.why, []).append(piece)
    return ParsingReport(
        solutions=len(listed),
        steps=sum(len(solution.steps) for solution in listed),
        records_without_steps=sum(not solution.steps for solution in listed),
        dropped=dict(Counter(piece.why for piece in pieces)),
        examples=tuple(
            Dropped(why=piece.why, text=piece.text[:SHOWN]) for of in examples.values() for piece in of[:MOST_EXAMPLES]
        ),
    )


def _pieces(text: str) -> list[tuple[int | None, str]]:
    """Number and text of each piece; None for what stands before the first step.

    A numbered line begins a step where it has a title, or the very number that is due. Other numbered lines are a list
    within a step's action, and so is a due number that goes on with such a list, or stands before a titled step 1.
    """
    pieces: list[tuple[int | None, list[str]]] = []
    lines = text.splitlines()
    heads = [_NUMBERED.match(line) for line in lines]
    titled = [head is not None and _TITLED.match(head[2]) is not None for head in heads]
    first = titled.index(True) if True in titled else 0
    opening = heads[first] if heads else None
    start = first if opening is not None and int(opening[1]) == 1 else 0
    due, listed = 1, -1
    for index, (line, head) in enumerate(zip(lines, heads, strict=True)):
        number = -1 if head is None else int(head[1])
        untitled_step = index >= start and number == due and listed != due - 1
        if head is not None and (titled[index] or untitled_step):
            pieces.append((number, [head[2]]))
            due, listed = number + 1, -1
            continue
        listed = listed if head is None else number
        if pieces:
            pieces[-1][1].append(line)
        elif line.strip():
            pieces.append((None, [line]))
    return [(number, "\n".join(lines).strip()) for number, lines in pieces]


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()
