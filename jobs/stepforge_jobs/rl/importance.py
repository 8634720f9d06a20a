"""Truncated importance weights, for rollouts that another engine drew than the network that learns.

The engine's probabilities are near the network's, not equal: other kernels, other rounding. A gradient that takes its
tokens for the network's own is biased. Weighed by p of the network / p of the engine it is not, and a cap keeps the few
tokens that the engine thought next to impossible from deciding the step (Yao et al. 2025,
https://fengyao.notion.site/off-policy-rl, after Ionides 2008's truncated importance sampling). The weights take no
gradient. TRL has these two as `vllm_importance_sampling_mode` "token_truncate" and "sequence_truncate", and does not
weigh its KL penalty; here all that is a mean over rollouts is weighed.

What is exact: by `rollout` the gradient is unbiased where no weight is capped, and noisy where completions are long. By
`token` it is unbiased for completions of one token; in longer ones what stands before and after a token is still as
likely as the engine made it, so a part of the bias stays, the smaller the nearer the two are.

Legend: T tokens of a completion; rows are ragged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stepforge_jobs.rl.kl import CLAMP, k1, k3

Weigh = Literal["token", "rollout"]


@dataclass(frozen=True)
class Importance:
    """Weights of each completion's tokens, and what they say of the engine over all tokens."""

    weights: list[Tensor]
    kl: float
    """Of the engine from the network, nats a token, the estimate k3."""
    mean: float
    """Of the weights before the cap."""
    largest: float
    capped: float
    """Share of tokens whose weight the cap cut."""


def importance(own: Sequence[Tensor], engine: Sequence[Tensor], *, cap: float, weigh: Weigh) -> Importance:
    """Weights of tokens that `engine` drew, by the log-probabilities of the network (`own`) and the engine's, T each.

    There must be a token. Ratios beyond e^20 count as e^20 in the figures.
    """
    lengths = [len(row) for row in own]
    engine_N, own_N = torch.cat(list(engine)), torch.cat(list(own))
    log_ratio_N = -k1(engine_N, own_N)
    if weigh == "rollout":
        sums = torch.stack([row.sum() for row in (own_N - engine_N).split(lengths)]).clamp(max=CLAMP)
        log_ratio_N = sums.repeat_interleave(torch.tensor(lengths, device=sums.device))
    ratio_N = log_ratio_N.exp()
    return Importance(
        weights=list(ratio_N.clamp(max=cap).split(lengths)),
        kl=float(k3(engine_N, own_N).mean()),
        mean=float(ratio_N.mean()),
        largest=float(ratio_N.max()),
        capped=float((ratio_N > cap).float().mean()),
    )
