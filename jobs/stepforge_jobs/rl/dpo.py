"""Direct preference optimisation (arXiv 2305.18290): pairs of rollouts, and the loss of a pair.

Legend: N pairs; log-probabilities are sums over a completion's tokens.
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

from stepforge_jobs.rl.advantages import SPREAD


def margins(
    chosen_N: Tensor, refused_N: Tensor, reference_chosen_N: Tensor, reference_refused_N: Tensor, *, beta: float
) -> Tensor:
    """How much more the implicit reward beta log(p / p_ref) is for what was chosen, N."""
    return beta * ((chosen_N - reference_chosen_N) - (refused_N - reference_refused_N))


def losses(margins_N: Tensor) -> Tensor:
    """-log sigmoid(margin), N."""
    return -functional.logsigmoid(margins_N)


def pairs(rewards_PG: Tensor) -> list[tuple[int, int]]:
    """Row numbers in B = P x G of (chosen, refused): the best of a group with its worst, the next with the next.

    With rewards of 0 and 1 each verified rollout meets a refused one, until one side is used up.
    """
    found = []
    group = rewards_PG.shape[1]
    for index, rewards_G in enumerate(rewards_PG):
        order = rewards_G.argsort(descending=True, stable=True).tolist()
        for best, worst in zip(order[: group // 2], reversed(order), strict=False):
            if rewards_G[best] - rewards_G[worst] > SPREAD:
                found.append((index * group + best, index * group + worst))
    return found
