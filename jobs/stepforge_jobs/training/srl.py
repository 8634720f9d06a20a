"""Supervised reinforcement learning (arXiv 2510.25992): one expert step at a time, similarity to it as the reward.

An instance is (prompt and the expert's steps before k, step k). The paper has k = 1 .. N-1 of N steps, which leaves out
one end; ours has every step, the first and the last too. A step must end with its terminator, or its reward is -1.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepforge.contracts.jobs import SrlWork
from stepforge.contracts.metrics import Metric
from stepforge.errors import InvalidInput
from stepforge_jobs.job import Job
from stepforge_jobs.rl.rewards import FORMAT_PENALTY, similarity
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.loop import train
from stepforge_jobs.training.rollouts import Judged
from stepforge_jobs.training.stage import begin, draw, finish, fitting
from stepforge_jobs.training.text import Codec

CHOICES = {
    "instances": "every step, the first and the last included",
    "similarity": "difflib ratio of (generated, expert), autojunk off",
    "format_failure": "no step terminator within max_new_tokens: reward -1",
}


def run(job: Job) -> None:
    """Train on the steps of split `train`. Raises InvalidInput where it has none."""
    work = job.spec.work
    assert isinstance(work, SrlWork)
    start = begin(job, work, "train", "rl")
    codec = start.policy.codec
    pairs = [(record, k) for record in start.records if record.split == "train" for k in range(len(record.steps))]
    if not pairs:
        raise InvalidInput(
            "split 'train' has no records with steps: SRL learns expert steps. Give steps, or use RLVR alone"
        )
    prompts = codec.contexts(record.context(k) for record, k in pairs)
    experts = [record.steps[k].action for record, k in pairs]
    for (record, _), prompt, target in zip(pairs, prompts, codec.targets(experts, end=False), strict=True):
        fitting(start.policy, record, prompt, target)
    instances = list(zip(prompts, experts, strict=True))
    stage = GrpoStage[str](
        start,
        work,
        draw=lambda step: draw(instances, step, work.batch_prompts, seed=work.seed),
        judge=lambda steps, completions: judge(codec, work, steps, completions),
        stops=codec.stops,
    )
    state = train(job, work, start.policy.network, stage)
    choices = {
        **stage.choices,
        **CHOICES,
        "similarity_unit": work.similarity,
        "count": len(instances),
    }
    finish(job, work, "srl", start.policy, state, choices)


def judge(codec: Codec, work: SrlWork, experts: Sequence[str], completions: Sequence[Sequence[int]]) -> Judged:
    """Similarity of each completion to its expert step; -1 for one that did not end."""
    rewards: list[float] = []
    matched: list[float] = []
    for expert, completion in zip(experts, completions, strict=True):
        if completion and completion[-1] in codec.stops:
            matched.append(similarity(codec.decode(completion), expert, unit=work.similarity))
            rewards.append(matched[-1])
        else:
            rewards.append(FORMAT_PENALTY)
    metrics = {Metric.FORMAT_FAILURES: 1.0 - len(matched) / len(rewards)}
    if matched:
        metrics[Metric.SIMILARITY] = sum(matched) / len(matched)
    return Judged(rewards=rewards, metrics=metrics)
