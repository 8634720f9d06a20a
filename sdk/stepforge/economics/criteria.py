"""Criteria that are weighed beside money, from whoever has them: people, a policy file, models that advise.

A criterion is worth `weight_usd` for a full point, and gives each arm a score in [0, 1]; staying with the base has its
own score. What it adds to an arm is weight x (the arm's score - the base's), as certain money.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol, runtime_checkable

from stepforge.contracts.decisions import Criterion, Question
from stepforge.errors import UnknownName


@runtime_checkable
class Advisor(Protocol):
    """Supplies criteria for a question."""

    def criteria(self, question: Question) -> Sequence[Criterion]: ...


@dataclass(frozen=True)
class Told:
    """An advisor that has said what it thinks: in a file, or in a request."""

    said: tuple[Criterion, ...]

    def criteria(self, question: Question) -> tuple[Criterion, ...]:
        del question
        return self.said


def pooled(question: Question, advisors: Sequence[Advisor]) -> tuple[Criterion, ...]:
    """One criterion for each name: the median of weights and scores over the advisors that gave it.

    So one of three advisors that is far off moves nothing. Raises UnknownName for a score of an arm that is not asked
    about.
    """
    known = [arm.name for arm in question.arms]
    given: dict[str, list[Criterion]] = {}
    for advisor in advisors:
        for criterion in advisor.criteria(question):
            for arm in criterion.scores:
                if arm not in known:
                    raise UnknownName(f"arm in criterion {criterion.name!r}", arm, known)
            given.setdefault(criterion.name, []).append(criterion)
    result = []
    for name, same in given.items():
        scores = {arm: median(one.scores.get(arm, one.base_score) for one in same) for arm in known}
        result.append(
            Criterion(
                name=name,
                weight_usd=median(one.weight_usd for one in same),
                scores=scores,
                base_score=median(one.base_score for one in same),
                reason="; ".join(dict.fromkeys(one.reason for one in same if one.reason)),
            )
        )
    return tuple(result)


def added_usd(criteria: Sequence[Criterion], arm: str) -> float:
    """What all criteria together add to one arm."""
    return sum(one.weight_usd * (one.scores.get(arm, one.base_score) - one.base_score) for one in criteria)
