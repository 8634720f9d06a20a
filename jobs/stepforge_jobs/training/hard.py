"""KL on problems that the base fails, beside what success needs: a cap there would forbid success.

A policy that always solves a problem is at least ln(1 / p_base) nats a completion away from one that solves it with
probability p_base (data processing). p_base is the share of the initial policy's own completions that are accepted, all
problems together: the mean of the problems' bounds is no smaller than the bound of their mean. Where none of n is
accepted, p_base < 3 / n at 95 % (rule of three), and the bound is that of 3 / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic

from stepforge.contracts.metrics import Metric
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.training.distance import as_reference, kl_of
from stepforge_jobs.training.gathering import Problem
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy

HARD_PROMPTS = 64
BASE_COMPLETIONS = 16
"""Of each problem by the initial policy, once in a stage: 1,024 tell a p_base of .003 from 0."""


def bound(accepted: int, count: int) -> float:
    """ln(1 / p_base) in nats, from `accepted` of `count` completions."""
    return math.log(count / (accepted or min(3, count)))


class Hard(Generic[Problem]):
    """`accepted` gets problems and a completion of each and says how many of them hold."""

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        problems: Sequence[tuple[list[int], Problem]],
        *,
        accepted: Callable[[Sequence[Problem], Sequence[Sequence[int]]], int],
        seed: int,
        max_new_tokens: int,
        stops: Collection[int],
    ) -> None:
        self._policy, self._reference, self._accepted = policy, reference, accepted
        self._prompts = [prompt for prompt, _ in problems[:HARD_PROMPTS]]
        self._problems = [problem for _, problem in problems[:HARD_PROMPTS]]
        self._sampling: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": 1.0,
            "seed": seed,
            "stops": stops,
        }
        self.base: tuple[int, int] | None = None
        """Accepted and all completions of the initial policy, once they were sampled."""

    def __call__(self) -> Values:
        completions = sample(self._policy, self._prompts, **self._sampling)
        found = kl_of(self._policy, self._reference, self._prompts, completions)
        if self.base is None:
            self.base = self._sample_base()
        return {
            Metric.KL_HARD: found.per_token,
            Metric.KL_HARD_COMPLETION: found.per_completion,
            Metric.KL_HARD_BOUND: bound(*self.base),
        }

    def _sample_base(self) -> tuple[int, int]:
        with as_reference(self._reference):
            completions = sample(self._reference, self._prompts, count=BASE_COMPLETIONS, **self._sampling)
        problems = [problem for problem in self._problems for _ in range(BASE_COMPLETIONS)]
        return self._accepted(problems, completions), len(completions)
