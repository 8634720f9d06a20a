"""A stage of SRL or RLVR by TRL's GRPOTrainer, from the same job folder, to the same kind of artifact.

Prompts come in the order in which our stages draw them; the reward is our stages' own; loss, optimiser, schedule,
clipping of the gradient and number of steps are the same. What differs is TRL's: its sampler (generate), its padding,
its random numbers. The reward is computed in this process, where ours asks a process of its own, and nothing is probed
or checkpointed: both are in TRL's favour. Only what GRPO with one update a batch needs; no dynamic sampling, no KL.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.work import PolicyGradient, RlvrWork, SrlWork
from stepforge_jobs.domains.judging import HereJudge
from stepforge_jobs.domains.user import domain_of
from stepforge_jobs.evaluation.verdicts import verdicts_of
from stepforge_jobs.job import Job, read_spec
from stepforge_jobs.main import OFFLINE
from stepforge_jobs.training import models, rlvr, srl
from stepforge_jobs.training.gathering import Pool
from stepforge_jobs.training.loop import BETAS, learning_rate
from stepforge_jobs.training.stage import Start, begin

PHASES = {"_generate": "sampling_seconds", "_calculate_rewards": "reward_seconds"}
"""TRL's methods that are timed."""
Reward = Callable[[Sequence[Any], Sequence[Sequence[int]]], list[float]]


def run(base: Path) -> None:
    """What a forked process does; writes `log`, the artifact and `phases.json` below `base`, and ends."""
    log = os.open(base / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(OFFLINE)
    try:
        _stage(Job(spec=read_spec(base), base=base))
    except BaseException:  # noqa: BLE001 - the boundary of the process
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _stage(job: Job) -> None:
    work = job.spec.work
    assert isinstance(work, SrlWork | RlvrWork)
    assert not work.dynamic_sampling
    if isinstance(work, SrlWork):
        start = begin(job, work, "train", "rl")
        start.policy.asking = work.asking
        pools: list[Pool[Any]] = [srl.pool_of(start, work)]
        stops = srl.stops_of(start.policy.asker, work)
        reward = _similarities(start, work)
    else:
        start = begin(job, work, "rl", "train")
        pools = list(rlvr.pools_of(start, work))
        stops = frozenset({start.policy.codec.eos})
        reward = _verdicts(job, start, work)
    phases, tokens = train(start, work, pools, reward, sorted(stops), job.base / "trl")
    models.save(start.policy, job.model_dir)
    report = {"tokens": tokens, "steps": work.steps, "seconds": phases["seconds"], "phases": phases}
    (job.model_dir / "trl.json").write_bytes(canonical_json(report))
    metadata = {"stage": work.name, "type": work.type, "domain": job.spec.domain, "asking": start.policy.asking}
    write_manifest(job.model_dir, "model", metadata=metadata)


def _similarities(start: Start, work: SrlWork) -> Reward:
    return lambda experts, completions: srl.judge(start.policy.asker, work, list(experts), completions).rewards


def _verdicts(job: Job, start: Start, work: RlvrWork) -> Reward:
    judge = HereJudge(domain_of(job))

    def rewards(records: Sequence[Any], completions: Sequence[Sequence[int]]) -> list[float]:
        found = verdicts_of(judge, start.policy.asker, records, completions)
        return [rlvr.reward_of(work, verdict) for verdict in found]

    return rewards


def train(
    start: Start, work: PolicyGradient, pools: Sequence[Pool[Any]], reward: Reward, stops: list[int], folder: Path
) -> tuple[dict[str, float], int]:
    """Train the policy's network in place. Returns seconds of the clock by phase, and the tokens of all completions."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    codec, network = start.policy.codec, start.policy.network
    drawn = [pool.items[place] for step in range(work.steps) for pool in pools for place in pool.batch(step)]
    texts = [codec.tokenizer.decode(prompt) for prompt, _ in drawn]
    assert [codec.tokenizer(text)["input_ids"] for text in texts] == [prompt for prompt, _ in drawn]
    phases = dict.fromkeys(PHASES.values(), 0.0)
    count = [0]

    def scored(completion_ids: list[list[int]], place: list[int], **_: Any) -> list[float]:
        count[0] += sum(map(len, completion_ids))
        return reward([drawn[at][1] for at in place], completion_ids)

    class Timed(GRPOTrainer):  # type: ignore[misc]
        """As shipped; two of its methods are timed."""

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            return _timed(found, phases, PHASES[name]) if name in PHASES else found

    network.generation_config.eos_token_id = stops
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=work.learning_rate, betas=BETAS, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(work, min(step, work.steps - 1)) / work.learning_rate
    )
    low, high = work.clips
    rows = work.batch_prompts * work.group_size
    arguments = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        # The default saves memory by computing twice. One micro-batch of all rows is TRL's fastest here.
        gradient_checkpointing=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_generations=work.group_size,
        max_completion_length=work.max_new_tokens,
        max_steps=work.steps,
        temperature=work.temperature,
        shuffle_dataset=False,
        loss_type=work.loss,
        scale_rewards=work.divisor,
        epsilon=low,
        epsilon_high=high,
        beta=0.0,
        max_grad_norm=work.gradient_norm,
        seed=work.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        logging_steps=work.steps,
    )
    data = Dataset.from_list([{"prompt": text, "place": place} for place, text in enumerate(texts)])
    trainer = Timed(
        model=network,
        reward_funcs=scored,
        args=arguments,
        train_dataset=data,
        processing_class=codec.tokenizer,
        optimizers=(optimiser, schedule),
    )
    started = time.perf_counter()
    trainer.train()
    assert count[0], "no completion was scored"
    return {**phases, "seconds": time.perf_counter() - started}, count[0]


def _timed(function: Callable[..., Any], phases: dict[str, float], phase: str) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            phases[phase] += time.perf_counter() - started

    return run
