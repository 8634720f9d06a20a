"""Whole steps on the same prompts, from sampling to the optimiser: ours, and those of TRL's trainer."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.metrics import PHASES
from stepforge.contracts.work import SrlWork
from stepforge_jobs.main import OFFLINE
from stepforge_jobs.rl.rewards import similarity
from stepforge_jobs.training import clock
from stepforge_jobs.training.gathering import Judged, Pool
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.stage import Start, frozen
from stepforge_jobs.training.text import Codec, scratch_tokenizer

BETA, LEARNING_RATE = 0.04, 1e-4
Rows = tuple[list[list[int]], list[list[int]]]
Timed = tuple[float, dict[str, float]]


def tokenizer(vocabulary: int) -> Any:
    """One word a token."""
    return scratch_tokenizer([f"w{number}" for number in range(2, vocabulary)], step_end="")


def ours(network: Any, rows: Rows, group: int, repeats: int, *, share: bool) -> Timed:
    """Median seconds of CPU of a step, and of the clock for its phases; the first step warms up."""
    prompts, experts = rows[0][::group], rows[1][::group]
    codec = Codec(tokenizer(network.config.vocab_size), step_end=None)
    longest = len(experts[0])
    policy = Policy(network, codec, context=4_096)
    nothing: Any = None
    start = Start(policy, frozen(policy), nothing, [], [], lambda: {})
    work = SrlWork(
        batch_prompts=len(prompts),
        group_size=group,
        max_new_tokens=longest,
        beta=BETA,
        dynamic_sampling=False,
        share_prefixes=share,
    )

    def judge(wanted: Sequence[str], completions: Sequence[Sequence[int]]) -> Judged:
        return Judged([similarity(codec.decode(c), w) for c, w in zip(completions, wanted, strict=True)], {})

    items = list(zip(prompts, map(codec.decode, experts), strict=True))
    stage = GrpoStage[str](start, work, pools=[Pool(items, len(items), 0)], judge=judge, stops={codec.eos})
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    seconds: list[float] = []
    phases: list[dict[str, float]] = []
    for step in range(repeats + 1):
        timed, started = clock.start(), time.process_time()
        optimiser.zero_grad(set_to_none=True)
        stage.backward(step, 0)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        seconds.append(time.process_time() - started)
        phases.append({str(phase): timed.seconds.get(phase, 0.0) for phase in PHASES})
    middle = {name: statistics.median(values[name] for values in phases[1:]) for name in phases[0]}
    return statistics.median(seconds[1:]), {name: value for name, value in middle.items() if value}


def trls(network: Any, rows: Rows, group: int, repeats: int) -> Timed:
    """GRPOTrainer as shipped, in micro-batches of `group` rows, with the losses and sizes of the other."""
    os.environ.update(OFFLINE)
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    prompts, experts = rows[0][::group], rows[1][::group]
    words = tokenizer(network.config.vocab_size)
    seconds: list[float] = []

    class Times(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += time.process_time()

    def reward(completions: list[str], expert: list[str], **_: Any) -> list[float]:
        return [similarity(c, w) for c, w in zip(completions, expert, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        network.generation_config.eos_token_id = words.eos_token_id
        network.save_pretrained(folder)
        words.save_pretrained(folder)
        arguments = GRPOConfig(
            output_dir=str(Path(folder) / "out"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=group,
            gradient_accumulation_steps=len(prompts),
            num_generations=group,
            max_completion_length=len(experts[0]),
            max_steps=repeats + 1,
            loss_type="grpo",
            beta=BETA,
            learning_rate=LEARNING_RATE,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            logging_steps=1_000,
        )
        data = Dataset.from_list(
            [{"prompt": words.decode(p), "expert": words.decode(e)} for p, e in zip(prompts, experts, strict=True)]
        )
        trainer = GRPOTrainer(
            model=folder, reward_funcs=reward, args=arguments, train_dataset=data, processing_class=words
        )
        trainer.add_callback(Times())
        trainer.train()
    return statistics.median(seconds[1:]), {}
