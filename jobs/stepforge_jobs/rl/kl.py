"""Kullback-Leibler divergence of a policy from a reference, in nats a token: exact over the vocabulary, and estimated.

The estimators take log-probabilities of tokens that the policy sampled; with r = p_ref / p: k1 = -log r (unbiased,
noisy), k2 = (log r)^2 / 2 (right gradient on policy), k3 = (r - 1) - log r (unbiased, never negative). Schulman 2020,
http://joschu.net/blog/kl-approx.html

An unbiased value does not make an unbiased gradient: that of k3 is the gradient of KL(reference || policy), that of k1
is 0 in the mean. What is trained on is `penalty` or, in the reward, the sum of k1 over a rollout (arXiv 2512.21852).

Legend: B rollouts, T completion tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from stepforge.contracts.work import KlPenalty

CLAMP = 20.0
"""Bound on the log ratio: k3 overflows without it."""


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(policy || reference) over the last axis, in nats; the axes before it stay."""
    logp = functional.log_softmax(logits.float(), -1)
    reference = functional.log_softmax(reference_logits.float(), -1)
    return (logp.exp() * (logp - reference)).sum(-1)


def _log_ratio(logps: Tensor, reference_logps: Tensor) -> Tensor:
    return (reference_logps - logps).clamp(-CLAMP, CLAMP)


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    return -_log_ratio(logps, reference_logps)


def k2(logps: Tensor, reference_logps: Tensor) -> Tensor:
    return _log_ratio(logps, reference_logps).square() / 2


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    log_ratio = _log_ratio(logps, reference_logps)
    return log_ratio.expm1() - log_ratio


def penalty(form: KlPenalty, logps_BT: Tensor, old_logps_BT: Tensor, reference_logps_BT: Tensor) -> Tensor:
    """What to add to each token's loss, before its weight, BT: its gradient is that of the exact KL, in the mean.

    Both forms carry the ratio to the policy that sampled, and one gradient, ratio x k1: in that of ratio x k3, which is
    ratio x (k3 + dk3), the exponentials cancel. `k1_in_reward` adds nothing here.
    """
    if form == "k1_in_reward":
        return torch.zeros_like(logps_BT)
    ratio_BT = (logps_BT - old_logps_BT).exp()
    # Value and gradient are put together, because autograd sees a constant beyond the clamp: of k2 it would leave no
    # pull, and of ratio x k3 a push of e^20 away from the tokens that the reference likes best.
    estimator = k3 if form == "k3_times_ratio" else k2
    value_BT, k1_BT = (of(logps_BT, reference_logps_BT).detach() for of in (estimator, k1))
    return ratio_BT.detach() * (value_BT + k1_BT * (logps_BT - logps_BT.detach()))
