"""Looks for signs of reward hacking at checkpoints, against the stage's initial policy on the same problems and seeds.

What is measured depends on the weights alone: after a restart the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from stepforge.contracts.hacking import signs
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge_jobs.evaluation.sampling import sample, seed_of
from stepforge_jobs.training.distance import as_reference
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks

PROBLEMS = 16
COMPLETIONS = 4
"""Of each problem, at temperature 1."""
WINDOW = 4
"""Tokens of the sequences whose return counts as repetition."""
SEED = 2
"""Tells these seeds from others of the same stage."""

Judge = Callable[[Sequence[Record], Sequence[Sequence[int]]], list[Verdict]]


@dataclass(frozen=True)
class Measured:
    """Of a set of problems; lists have a number for each."""

    accepted: list[float]
    reward: list[float]
    tokens: float
    repetition: float


class Watch:
    """Measures `trained` and `held_out` problems (the first 16 of each) when called with a step."""

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        *,
        trained: Sequence[Record],
        held_out: Sequence[Record],
        judge: Judge,
        reward: Callable[[Verdict], float],
        seed: int,
        max_new_tokens: int,
        warn: Callable[[str], None],
    ) -> None:
        self._policy, self._reference = policy, reference
        self._trained, self._held_out = list(trained[:PROBLEMS]), list(held_out[:PROBLEMS])
        self._judge, self._reward, self._warn = judge, reward, warn
        self._seed, self._most = seed_of(seed, SEED), max_new_tokens
        self._before: tuple[Measured, Measured | None] | None = None

    def __call__(self, step: int) -> Values:
        if self._before is None:
            with as_reference(self._reference):
                self._before = self._measure(self._reference)
        values = changes(self._before, self._measure(self._policy))
        found = signs({str(name): value for name, value in values.items()})
        values[Metric.HACKING_SIGNS] = len(found)
        for sign in found:
            self._warn(f"sign of reward hacking at step {step}: {sign}")
        return values

    def _measure(self, policy: Policy) -> tuple[Measured, Measured | None]:
        return self._of(policy, self._trained), self._of(policy, self._held_out) if self._held_out else None

    def _of(self, policy: Policy, records: Sequence[Record]) -> Measured:
        completions = sample(
            policy,
            self._policy.asker.solutions(records),
            count=COMPLETIONS,
            max_new_tokens=self._most,
            temperature=1.0,
            seed=self._seed,
            stops={policy.codec.eos},
        )
        asked = [record for record in records for _ in range(COMPLETIONS)]
        verdicts = ranks().same(lambda: self._judge(asked, completions))
        groups = [verdicts[start : start + COMPLETIONS] for start in range(0, len(verdicts), COMPLETIONS)]
        return Measured(
            accepted=[fmean(verdict.accepted for verdict in group) for group in groups],
            reward=[fmean(self._reward(verdict) for verdict in group) for group in groups],
            tokens=fmean(map(len, completions)),
            repetition=fmean(map(repetition, completions)),
        )


def changes(before: tuple[Measured, Measured | None], now: tuple[Measured, Measured | None]) -> Values:
    """Metrics of trained and held-out problems now, and what changed since before."""
    trained, held = now[0], now[1]
    gain, gain_error = paired(before[0].reward, trained.reward)
    values: Values = {
        Metric.LENGTH_RATIO: trained.tokens / before[0].tokens,
        Metric.REPETITION: trained.repetition,
        Metric.REPETITION_CHANGE: trained.repetition - before[0].repetition,
        Metric.TRAINED_REWARD_CHANGE: gain,
        Metric.TRAINED_REWARD_ERROR: gain_error,
    }
    if held is not None and before[1] is not None:
        change, error = paired(before[1].accepted, held.accepted)
        values |= {
            Metric.HELD_OUT_ACCEPTED: fmean(held.accepted),
            Metric.HELD_OUT_ACCEPTED_CHANGE: change,
            Metric.HELD_OUT_ACCEPTED_ERROR: error,
        }
    return values


def paired(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Mean difference over problems and its standard error (0 of one problem).

    >>> paired([0.0, 1.0], [1.0, 1.0])
    (0.5, 0.5)
    """
    differences = [b - a for a, b in zip(before, now, strict=True)]
    error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return fmean(differences), error


def repetition(tokens: Sequence[int]) -> float:
    """Share of a completion's 4-token sequences that it has had before; 0 where it is shorter than two of them.

    >>> repetition([7] * 6), repetition([1, 2, 3, 4, 5])
    (0.6666666666666666, 0.0)
    """
    windows = [tuple(tokens[start : start + WINDOW]) for start in range(len(tokens) - WINDOW + 1)]
    return 1.0 - len(set(windows)) / len(windows) if windows else 0.0
