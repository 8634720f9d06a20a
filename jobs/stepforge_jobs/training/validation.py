"""What a stage never trains on, and how well the current policy solves it, to choose the best checkpoint.

One held-out set serves validation and the signs of hacking (watch.py); test splits stay unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from stepforge.contracts.manifests import Manifest
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.work import Optimisation, RlvrWork
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import read_records
from stepforge_jobs.domains.judging import judge_of
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.job import Job
from stepforge_jobs.training.loop import Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks

PROBLEMS = 32
"""Most held-out problems of a stage that names no number."""
SHARE = 5
"""At most one problem in so many is held out."""
TOKENS = 64
"""Longest completion where the work names none."""


def held_out(job: Job, work: Optimisation, data: Manifest) -> list[Record]:
    """Problems of split `rl` that the stage is never trained on; none where it neither watches nor validates.

    Raises InvalidInput where the best weights are to be kept and there is nothing to choose them by.
    """
    most = work.held_out if isinstance(work, RlvrWork) else PROBLEMS * (work.keep == "best")
    problems = [r for r in read_records(job.channel("data"), data, "rl") if r.stratum == "target"] if most else []
    chosen = some_groups(problems, min(most, len(problems) // SHARE))
    if work.keep == "best" and not chosen:
        raise InvalidInput(
            f"keep = 'best' validates on target problems of split 'rl' that are held out, at most {most} and one in "
            f"{SHARE}, in whole groups; of {len(problems)} that leaves none: give more, raise held_out, or set "
            "keep = 'last'"
        )
    return chosen


def some_groups(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many records, in whole groups and their own order; which ones, a hash of the groups' names says."""
    sizes: dict[str, int] = {}
    for record in records:
        sizes[record.group] = sizes.get(record.group, 0) + 1
    chosen: set[str] = set()
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f"held-out:{name}".encode()).digest()):
        if sizes[group] <= most:
            chosen.add(group)
            most -= sizes[group]
    return [record for record in records if record.group in chosen]


class Validation:
    """Mean verifier reward of greedy completions, where the best weights are kept."""

    def __init__(self, job: Job, work: Optimisation, policy: Policy, problems: Sequence[Record]) -> None:
        self._job, self._policy = job, policy
        self._problems = problems if work.keep == "best" else []
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
