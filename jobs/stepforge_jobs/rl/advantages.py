"""Advantages of rollouts: rewards less their group's mean, divided by the deviation of one's choice.

Legend: P prompts, G rollouts of each, B = P x G rollouts, T completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepforge.contracts.losses import Normalisation
from stepforge_jobs.rl.welford import Moments

STD_FLOOR = 1e-4
"""Added to the standard deviation, as TRL 1.16 does."""
SPREAD = 1e-6
"""A group whose rewards differ by no more than this teaches nothing."""


def group_advantages(
    rewards_PG: Tensor, normalisation: Normalisation = "group", *, running: Moments | None = None
) -> Tensor:
    """(r - the group's mean) / (deviation + 1e-4), PG; exactly 0 where a group has no spread.

    The deviation is that of the group (arXiv 2402.03300), of the batch, or of all rewards so far (`running`, this batch
    included), each with Bessel's correction; `none` divides by nothing (Dr. GRPO, arXiv 2503.20783).
    """
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if normalisation == "group":
        centred_PG = centred_PG / (rewards_PG.std(1, keepdim=True) + STD_FLOOR)
    elif normalisation == "batch":
        centred_PG = centred_PG / (rewards_PG.std() + STD_FLOOR)
    elif normalisation == "running":
        assert running is not None, "a running deviation needs the moments so far"
        centred_PG = centred_PG / (running.std + STD_FLOOR)
    return torch.where(has_spread(rewards_PG)[:, None], centred_PG, torch.zeros_like(centred_PG))


def has_spread(rewards_PG: Tensor) -> Tensor:
    """Which groups carry a signal, P (bool)."""
    return (rewards_PG.amax(1) - rewards_PG.amin(1)) > SPREAD


def sequence_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over each sequence's own tokens, B: every rollout weighs the same however long it is."""
    mask_BT = mask_BT.to(values_BT.dtype)
    return (values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1.0)
