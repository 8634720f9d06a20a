"""Proximal policy optimisation (arXiv 1707.06347) for rollouts of tokens: rewards, advantages, the loss of the values.

The clipped loss of the policy is that of rl/losses.py with an advantage for each token. Tests hold all of it to closed
forms. Nothing is learnt of what came after a rollout: its last token is terminal, also where it ran out of tokens.

Legend: B rollouts, T completion tokens; `mask_BT` says which positions hold a rollout's tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepforge_jobs.rl.kl import k1

WHITEN_FLOOR = 1e-8


def token_rewards(
    rewards_B: Tensor, mask_BT: Tensor, *, logps_BT: Tensor, reference_logps_BT: Tensor | None, beta: float
) -> Tensor:
    """-beta x k1 for each token, and the verifier's reward on the last one (arXiv 1909.08593), BT."""
    rewards_BT = torch.zeros_like(logps_BT)
    if reference_logps_BT is not None:
        rewards_BT = torch.where(mask_BT, -beta * k1(logps_BT, reference_logps_BT), rewards_BT)
    return rewards_BT + last_token(mask_BT) * rewards_B[:, None]


def last_token(mask_BT: Tensor) -> Tensor:
    """1 at each rollout's last token, BT; a rollout without tokens has none."""
    left_BT = mask_BT.flip(1).cumsum(1).flip(1)
    return (mask_BT & (left_BT == 1)).to(torch.float)


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantages (arXiv 1506.02438), BT: A_t = sum over l of (gamma lam)^l delta_(t+l), 0 outside the mask.

    delta_t = r_t + gamma V_(t+1) - V_t, with V = 0 after the last token.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B, next_advantage_B = (torch.zeros_like(rewards_BT[:, 0]) for _ in range(2))
    for t in reversed(range(rewards_BT.shape[1])):
        here_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        next_advantage_B = torch.where(here_B, advantage_B, next_advantage_B)
        next_value_B = torch.where(here_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(here_B, advantage_B, torch.zeros_like(advantage_B))
    return advantages_BT


def value_losses(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, *, clip: float) -> Tensor:
    """Half the larger of the squared errors of the value and of the value kept within `clip` of the old one, BT."""
    kept_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return torch.maximum((values_BT - returns_BT).square(), (kept_BT - returns_BT).square()) / 2


def whiten(rows: list[Tensor]) -> list[Tensor]:
    """The same values with mean 0 and deviation 1 over all tokens of all rollouts."""
    every = torch.cat(rows)
    deviation = every.std(correction=0) + WHITEN_FLOOR
    return [(row - every.mean()) / deviation for row in rows]
