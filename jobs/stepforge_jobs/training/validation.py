"""Validation: how well the current policy solves problems that it does not learn from, to choose the best checkpoint.

Held out are the last eighth of the target problems of split `rl`, at most 64: a stage that validates does not train on
them, and test splits stay unseen. Measured only where a work keeps the best, so nothing changes elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.jobs import Optimisation, RlvrWork
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import read_records
from stepforge_jobs.domains.judging import judge_of
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.job import Job
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks

PROBLEMS = 64
SHARE = 8
"""One in so many is held out."""
TOKENS = 64
"""Longest completion where the work names none."""


def held_out(job: Job, work: Optimisation, data: Manifest) -> list[Record]:
    """The problems to validate on; none where the last weights are kept. Raises InvalidInput for too few."""
    if work.keep == "last":
        return []
    problems = [r for r in read_records(job.channel("data"), data, "rl") if r.stratum == "target"]
    if len(problems) < SHARE:
        raise InvalidInput(
            f"keep = 'best' validates on an eighth of the target problems of split 'rl', which has {len(problems)}: "
            f"give at least {SHARE}, or set keep = 'last'"
        )
    return problems[-min(PROBLEMS, len(problems) // SHARE) :]


class Validation:
    """Mean verifier reward of greedy completions."""

    def __init__(self, job: Job, work: Optimisation, policy: Policy, problems: Sequence[Record]) -> None:
        self._job, self._policy = job, policy
        self._problems = problems
        # SRL's is the length of one step.
        self._tokens = work.max_new_tokens if isinstance(work, RlvrWork) else TOKENS

    def __call__(self) -> Values:
        if not self._problems:
            return {}
        policy = self._policy
        completions = sample(
            policy,
            policy.asker.solutions(self._problems),
            max_new_tokens=self._tokens,
            temperature=0.0,
            seed=0,
            stops={policy.codec.eos},
        )
        return {Metric.VALIDATION: ranks().same(lambda: self._mean_reward(completions))}

    def _mean_reward(self, completions: Sequence[Sequence[int]]) -> float:
        with judge_of(self._job) as judge:
            verdicts = verdicts_of(judge, self._policy.asker, self._problems, completions)
        return sum(verdict.reward for verdict in verdicts) / len(verdicts)
