"""The clipped losses of the GRPO family: what weighs a token, and what the sum is divided by.

| loss | weight of a token | divided by | source |
|---|---|---|---|
| grpo | min(w A, clip(w) A), w its ratio | its rollout's tokens, then rollouts | arXiv 2402.03300 |
| dr_grpo | the same | rollouts x the longest allowed | arXiv 2503.20783 |
| dapo | the same, clipped higher above | all tokens | arXiv 2503.14476 |
| gspo | w the rollout's geometric mean ratio | its rollout's tokens, then rollouts | arXiv 2507.18071 |
| cispo | detached clip(w) A log p | all tokens | arXiv 2506.13585 |

Everything here is pure. The divisors are those of the whole batch (`Whole`), so the shares of micro-batches add up to
its loss. A test holds losses and gradients to those of TRL 1.16. Not covered: overlong filtering.

Legend: B rollouts, T completion tokens; `advantages_B1` may be BT where tokens have their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepforge.contracts.losses import PolicyLoss
from stepforge_jobs.rl.advantages import sequence_mean


@dataclass(frozen=True)
class Whole:
    """The batch that a micro-batch is a part of."""

    rollouts: int
    tokens: int
    """Completion tokens of all rollouts."""
    longest: int
    """Most tokens that a completion may have."""


def weights(loss: PolicyLoss, logps_BT: Tensor, old_logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Ratio of the new to the old policy, BT: a token's own, or for gspo that of its rollout."""
    log_ratio_BT = logps_BT - old_logps_BT
    if loss == "gspo":
        log_ratio_BT = sequence_mean(log_ratio_BT, mask_BT)[:, None].expand_as(log_ratio_BT)
    return log_ratio_BT.exp()


def token_losses(
    loss: PolicyLoss,
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages_B1: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    clip_high: float,
) -> Tensor:
    """Loss of each token, BT; neither masked nor averaged."""
    weights_BT = weights(loss, logps_BT, old_logps_BT, mask_BT)
    bounded_BT = weights_BT.clamp(1 - clip, 1 + clip_high)
    if loss == "cispo":
        return -bounded_BT.detach() * advantages_B1 * logps_BT
    return -torch.minimum(weights_BT * advantages_B1, bounded_BT * advantages_B1)


def share(loss: PolicyLoss, values_BT: Tensor, mask_BT: Tensor, whole: Whole) -> Tensor:
    """What these rollouts add to the loss of the whole batch."""
    if loss in ("grpo", "gspo"):
        return sequence_mean(values_BT, mask_BT).sum() / max(1, whole.rollouts)
    divisor = whole.rollouts * whole.longest if loss == "dr_grpo" else whole.tokens
    return (values_BT * mask_BT).sum() / max(1, divisor)


def out_of_range(weights_BT: Tensor, advantages_B1: Tensor, *, clip: float, clip_high: float) -> Tensor:
    """Where the clip is what counts, BT (bool): the ratio has left the range in its advantage's direction."""
    above_BT = (weights_BT > 1 + clip_high) & (advantages_B1 > 0)
    return above_BT | ((weights_BT < 1 - clip) & (advantages_B1 < 0))
