"""Reinforcement learning with verifiable rewards: whole completions, judged by the domain's verifier.

A share of each batch is drawn from retained records, which the base already solves: without them that skill is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.jobs import RlvrWork
from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.domains.user import domain_of
from stepforge_jobs.evaluation.verdicts import verdict_of
from stepforge_jobs.job import Job
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.loop import train
from stepforge_jobs.training.rollouts import Judged
from stepforge_jobs.training.stage import begin, draw, finish
from stepforge_jobs.training.text import Codec

CHOICES = {
    "unfinished": "a completion without an end within max_new_tokens is refused, whatever it says",
}


def run(job: Job) -> None:
    """Train on split `rl`, with retained records of `rl` and `train` in between."""
    work = job.spec.work
    assert isinstance(work, RlvrWork)
    domain = domain_of(job)
    start = begin(job, work, "rl", "train")
    codec = start.policy.codec
    target = [record for record in start.records if record.stratum == "target" and record.split == "rl"]
    target = target or [record for record in start.records if record.stratum == "target"]
    retained = [record for record in start.records if record.stratum == "retained"]
    if not target:
        raise InvalidInput(
            "splits 'rl' and 'train' have no target records: RLVR needs problems that the base does not solve"
        )
    prompts = dict(zip((r.id for r in start.records), codec.contexts(r.context(0) for r in start.records), strict=True))
    rehearsed = round(work.rehearsal_share * work.batch_prompts) if retained else 0

    def problems(step: int) -> list[tuple[list[int], Record]]:
        chosen = draw(target, step, work.batch_prompts - rehearsed, seed=work.seed)
        chosen += draw(retained, step, rehearsed, seed=work.seed + 1) if rehearsed else []
        return [(prompts[record.id], record) for record in chosen]

    stage = GrpoStage[Record](
        start,
        work,
        draw=problems,
        judge=lambda records, completions: judge(domain, codec, work, records, completions),
        stops={codec.eos},
        hard=[(prompts[record.id], record) for record in target],
    )
    state = train(job, work, start.policy.network, stage)
    choices = {**stage.choices, **CHOICES, "rehearsed_prompts": rehearsed}
    finish(job, work, "rlvr", start.policy, state, choices)


def judge(
    domain: Domain, codec: Codec, work: RlvrWork, records: Sequence[Record], completions: Sequence[Sequence[int]]
) -> Judged:
    """The verifier's word on each completion, as the kind of reward that the work names."""
    known: dict[tuple[str, tuple[int, ...]], Verdict] = {}
    verdicts: list[Verdict] = []
    for record, completion in zip(records, completions, strict=True):
        key = (record.id, tuple(completion))
        if key not in known:
            known[key] = verdict_of(domain, codec, record, completion)
        verdicts.append(known[key])
    rewards = [
        float(v.accepted) if work.reward == "outcome" else v.reward if work.reward == "reward" else v.partial
        for v in verdicts
    ]
    count = len(verdicts)
    metrics = {
        Metric.FORMAT_FAILURES: sum(bool(verdict.reason) for verdict in verdicts) / count,
        Metric.ACCEPTED: sum(verdict.accepted for verdict in verdicts) / count,
        Metric.PARTIAL: sum(verdict.partial for verdict in verdicts) / count,
    }
    return Judged(rewards=rewards, metrics=metrics)
