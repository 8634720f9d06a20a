"""Which groups of rollouts are worth an update (arXiv 2510.25992 section 3.3, after arXiv 2503.14476)."""

from __future__ import annotations

from torch import Tensor


def informative(rewards_PG: Tensor, *, above: float) -> Tensor:
    """Groups whose rewards' population standard deviation exceeds `above`, P (bool). P prompts, G rollouts of each."""
    # In float64: eight equal rewards of .1 have a spread of 1e-9 in float32.
    return rewards_PG.double().std(1, correction=0) > above
