"""TRL's own loss on rollouts that were made elsewhere: a trainer without its heavy parts, what it reads set by hand."""

from __future__ import annotations

import os
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.losses import PolicyLoss
from stepforge_jobs.main import OFFLINE


def trl_trainer(
    loss: PolicyLoss, *, clip: float, clip_high: float, beta: float = 0.0, model: Any = None, longest: int = 8
) -> Any:
    """A GRPOTrainer whose `_compute_loss` can be called; with a model it also makes the log-probabilities."""
    os.environ.update(OFFLINE)
    from accelerate import Accelerator
    from trl import GRPOTrainer
    from trl.trainer.grpo_trainer import add_fused_lm_head

    made: Any = object.__new__(GRPOTrainer)
    made.loss_type = "grpo" if loss == "gspo" else loss
    made.importance_sampling_level = "sequence" if loss == "gspo" else "token"
    # TRL's bound for cispo is the largest weight itself; ours is its distance from 1, as for the others.
    made.epsilon_low, made.epsilon_high = clip, clip_high + (loss == "cispo")
    made.beta, made.temperature, made.max_completion_length = beta, 1.0, longest
    made.model = SimpleNamespace(training=True) if model is None else model
    made.model_kwarg_keys = set()
    if model is not None:
        add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    made.args = SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1)
    made.accelerator = Accelerator(cpu=True)
    made._metrics = {"train": defaultdict(list)}
    made.top_entropy_quantile, made.off_policy_mask_threshold, made.current_gradient_accumulation_steps = 1.0, None, 1
    made.aux_loss_enabled = made._entropy_bonus_enabled = made.use_vllm = False
    return made


def trl_inputs(prompts: list[list[int]], completions: list[list[int]], advantages: Tensor) -> dict[str, Any]:
    """Prompts padded on the left and completions on the right, as TRL has them."""
    wide, deep = max(map(len, prompts)), max(map(len, completions))
    return {
        "prompt_ids": torch.tensor([[0] * (wide - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [0] * (deep - len(c)) for c in completions]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (deep - len(c)) for c in completions]),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }
