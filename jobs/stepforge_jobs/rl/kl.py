"""Kullback-Leibler divergence of a policy from a reference, in nats a token: exact over the vocabulary, and estimated.

The estimators take log-probabilities of tokens that the policy sampled; with r = p_ref / p: k1 = -log r (unbiased,
noisy), k2 = (log r)^2 / 2 (right gradient on policy), k3 = (r - 1) - log r (unbiased, never negative). Schulman 2020,
http://joschu.net/blog/kl-approx.html
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

CLAMP = 20.0
"""k3 overflows without it."""


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
