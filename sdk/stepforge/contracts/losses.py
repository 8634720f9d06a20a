"""The clipped losses of the GRPO family by name, and what each has where nothing else is asked for."""

from __future__ import annotations

from typing import Literal

PolicyLoss = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
Normalisation = Literal["group", "batch", "none", "running"]

CLIPS: dict[PolicyLoss, tuple[float, float]] = {
    "grpo": (0.2, 0.2),
    "dr_grpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
    # Its authors bound the weight above alone; TRL recommends 5 for that bound.
    "cispo": (1.0, 4.0),
}
"""How far below and above 1 the weight of a token counts."""


def clips(loss: PolicyLoss, clip: float | None, clip_high: float | None) -> tuple[float, float]:
    """What was asked for, or else the loss's own; a lower clip that was asked for is the upper one too.

    >>> clips("dapo", None, None), clips("dapo", 0.1, None)
    ((0.2, 0.28), (0.1, 0.1))
    """
    own_low, own_high = CLIPS[loss]
    low = own_low if clip is None else clip
    return low, clip_high if clip_high is not None else own_high if clip is None else clip
