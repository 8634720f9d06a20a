"""Reinforcement learning with verifiable rewards: whole completions, judged by the domain's verifier.

A share of each batch is drawn from retained records, which the base already solves: without them that skill is lost.
A user's verifier runs in processes of its own (`domains.judging`); what it does there cannot stall training.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from stepforge.contracts.metrics import Metric
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.work import RlvrWork
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.judging import FAILED, Judge, judge_of
from stepforge_jobs.engines.vllm import engine_of
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.job import Job
from stepforge_jobs.training.asking import UNFINISHED, UNTHOUGHT
from stepforge_jobs.training.dpo import DpoStage
from stepforge_jobs.training.gathering import Judged, Pool, sampling_choices
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.loop import Values, train
from stepforge_jobs.training.ppo import PpoStage
from stepforge_jobs.training.rollouts import RolloutStage
from stepforge_jobs.training.stage import Start, begin, finish
from stepforge_jobs.training.watch import Watch

FORMAT = (UNFINISHED.reason, UNTHOUGHT.reason)
ALGORITHMS: dict[str, type[RolloutStage[Record]]] = {"grpo": GrpoStage, "ppo": PpoStage, "dpo": DpoStage}
CHOICES = {
    "unfinished": "a completion without an end within max_new_tokens is refused, whatever it says",
}


def run(job: Job) -> None:
    """Train on split `rl`, with retained records of `rl` and `train` in between."""
    with judge_of(job) as judge:
        _run(job, judge)


def _run(job: Job, judge: Judge) -> None:
    work = job.spec.work
    assert isinstance(work, RlvrWork)
    start = begin(job, work, "rl", "train")
    start.policy.asking = work.asking or start.policy.asking
    asker, stops = start.policy.asker, {start.policy.codec.eos}
    target, demonstrated = problems(start.records)
    pools = pools_of(start, work)

    def verdicts(records: Sequence[Record], completions: Sequence[Sequence[int]]) -> list[Verdict]:
        return verdicts_of(judge, asker, records, completions)

    with engine_of(work, start.policy, [prompt for pool in pools for prompt, _ in pool.items]) as engine:
        stage: RolloutStage[Record] = ALGORITHMS[work.algorithm](
            start,
            work,
            pools=pools,
            judge=lambda records, completions: judged(work, verdicts(records, completions)),
            stops=stops,
            hard=pools[0].items,
            engine=engine,
        )
        if start.reference is not None:
            watch = Watch(
                start.policy,
                start.reference,
                trained=target,
                held_out=start.held_out or demonstrated,
                judge=verdicts,
                reward=lambda verdict: reward_of(work, verdict),
                seed=work.seed,
                max_new_tokens=work.max_new_tokens,
                warn=start.warn,
            )
            stage.probe.watches.append(watch)
        state = train(job, work, start.policy.network, stage)
    choices = {
        **stage.choices,
        **CHOICES,
        **sampling_choices(work),
        "asking": start.policy.asking,
        "rehearsed_prompts": sum(pool.count for pool in pools[1:]),
        "held_out": f"{len(start.held_out or demonstrated)} problems that this stage is never trained on",
    }
    finish(job, work, "rlvr", start.policy, state, choices)


def pools_of(start: Start, work: RlvrWork) -> list[Pool[Record]]:
    """Problems to be learnt, and beside them retained ones to be rehearsed, where there are any and work wants them."""
    asker = start.policy.asker
    target, _ = problems(start.records)
    retained = [record for record in start.records if record.stratum == "retained"]
    rehearsed = round(work.rehearsal_share * work.batch_prompts) if retained else 0

    def pool(records: Sequence[Record], count: int, seed: int) -> Pool[Record]:
        return Pool(list(zip(asker.solutions(records), records, strict=True)), count=count, seed=seed)

    pools = [pool(target, work.batch_prompts - rehearsed, work.seed)]
    return [*pools, pool(retained, rehearsed, work.seed + 1)] if rehearsed else pools


def problems(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Target records to train on, and demonstrations that are not: those are trained on where split `rl` has none.

    Raises InvalidInput where there is nothing to train on.
    """
    demonstrated = [record for record in records if record.stratum == "target" and record.split == "train"]
    target = [record for record in records if record.stratum == "target" and record.split == "rl"]
    if not target and not demonstrated:
        raise InvalidInput(
            "splits 'rl' and 'train' have no target records: RLVR needs problems that the base does not solve"
        )
    return (target, demonstrated) if target else (demonstrated, [])


def reward_of(work: RlvrWork, verdict: Verdict) -> float:
    """The kind of reward that the work names."""
    if work.reward == "outcome":
        return float(verdict.accepted)
    return verdict.reward if work.reward == "reward" else verdict.partial


def judged(work: RlvrWork, verdicts: Sequence[Verdict]) -> Judged:
    """Rewards, and their components apart."""
    ended = [verdict for verdict in verdicts if verdict.reason not in FORMAT]
    hard = [rule.score >= 1 for verdict in ended if not verdict.reason for rule in verdict.rules if rule.hard]
    metrics: Values = {
        Metric.FORMAT_FAILURES: sum(bool(verdict.reason) for verdict in verdicts) / len(verdicts),
        Metric.UNREADABLE: sum(bool(verdict.reason) for verdict in ended) / len(verdicts),
        Metric.VERIFIER_FAILURES: sum(v.reason.startswith(FAILED) for v in ended) / len(verdicts),
        Metric.ACCEPTED: fmean(verdict.accepted for verdict in verdicts),
        Metric.GRADED: fmean(verdict.reward for verdict in verdicts),
        Metric.PARTIAL: fmean(verdict.partial for verdict in verdicts),
    }
    if hard:
        metrics[Metric.HARD_RULES] = fmean(hard)
    return Judged(rewards=[reward_of(work, verdict) for verdict in verdicts], metrics=metrics)
