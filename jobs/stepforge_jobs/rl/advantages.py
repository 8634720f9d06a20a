"""Advantages within a group of rollouts, and GRPO's clipped loss (arXiv 2402.03300).

Legend: P prompts, G rollouts of each, B = P x G rollouts, T completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

STD_FLOOR = 1e-4
"""Added to the standard deviation, as TRL 1.16 does."""
SPREAD = 1e-6
"""A group whose rewards differ by no more than this teaches nothing."""


def group_advantages(rewards_PG: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-4) within each group, PG; std with Bessel's correction. 0 where a group has no spread."""
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    advantages_PG = centred_PG / (rewards_PG.std(1, keepdim=True) + STD_FLOOR)
    return torch.where(has_spread(rewards_PG)[:, None], advantages_PG, torch.zeros_like(advantages_PG))


def has_spread(rewards_PG: Tensor) -> Tensor:
    """Which groups carry a signal, P (bool)."""
    return (rewards_PG.amax(1) - rewards_PG.amin(1)) > SPREAD


def clipped_loss(
    logps_BT: Tensor, old_logps_BT: Tensor, advantages_B: Tensor, *, clip: float, penalty_BT: Tensor | None = None
) -> Tensor:
    """-min(ratio A, clipped ratio A) plus a penalty for each token, BT; not yet masked or averaged."""
    ratio_BT = (logps_BT - old_logps_BT).exp()
    advantages_B1 = advantages_B[:, None]
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = -torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    return loss_BT if penalty_BT is None else loss_BT + penalty_BT


def sequence_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over each sequence's own tokens, B: every rollout weighs the same however long it is."""
    mask_BT = mask_BT.to(values_BT.dtype)
    return (values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1.0)
