"""What the weight beta of a KL penalty is next, from the KL that was measured. Pure: a state in, a state out.

`pi` is proportional-integral control in log space: the error is log(average / target), so a KL of half and of twice the
target weigh the same, and beta, a positive number, moves by factors. It is written as an increment, so a beta at its
bound does not wind up the integral. `ziegler` is the controller of arXiv 1909.08593, section 2.2, which moves by at
most .2 n / horizon: 68 updates to double at n = 512 and horizon 10,000. Neither can promise a cap: the guard does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from stepforge.contracts.work import KlControl

STEEPEST = 2.0
"""Bound on the error, in nats of log KL: at the start KL is 0 and its logarithm is not a number."""
ZIEGLER_CLIP = 0.2


@dataclass(frozen=True)
class Control:
    """Between two updates; `error` is the last one, `average` the moving average of the KL (None before the first)."""

    beta: float
    average: float | None = None
    error: float = -STEEPEST

    def state_dict(self) -> dict[str, float | None]:
        return asdict(self)


def begin(config: KlControl) -> Control:
    """Before the first measurement: the least beta."""
    return Control(beta=config.beta_min)


def bounded(config: KlControl, beta: float) -> float:
    return min(config.beta_max, max(config.beta_min, beta))


def log_error(config: KlControl, kl: float) -> float:
    """log(kl / target), bounded."""
    return min(STEEPEST, max(-STEEPEST, math.log(max(kl, 1e-12) / config.target)))


def update(config: KlControl, control: Control, kl: float, *, rollouts: int) -> Control:
    """After `kl` nats a token were measured, `rollouts` of training after the measurement before."""
    average = kl if control.average is None else config.memory * control.average + (1 - config.memory) * kl
    if config.controller == "ziegler":
        error = min(ZIEGLER_CLIP, max(-ZIEGLER_CLIP, kl / config.target - 1))
        beta = control.beta * (1 + error * rollouts / config.horizon)
    else:
        error = log_error(config, average)
        beta = control.beta * math.exp(config.proportional * (error - control.error) + config.integral * error)
    return Control(beta=bounded(config, beta), average=average, error=error)


# ── The guard ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Guarded:
    """What evaluations have said: the KL of the weights that stay, and how often others were refused."""

    kl: float = 0.0
    refused: int = 0
    learning_rate_scale: float = 1.0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)


def judge(config: KlControl, guarded: Guarded, control: Control, kl: float) -> tuple[bool, Guarded, Control]:
    """Whether weights of this KL may stay, and the states after it.

    Refused weights halve the learning rate and double beta, and the controller starts from the KL of those that stay.
    """
    if kl <= config.cap:
        return True, replace(guarded, kl=kl), control
    refused = replace(guarded, refused=guarded.refused + 1, learning_rate_scale=guarded.learning_rate_scale / 2)
    beta = bounded(config, 2 * control.beta)
    # With the error of the refused weights the next update would see a fall that beta has not earned, and undo it.
    return False, refused, Control(beta=beta, average=guarded.kl, error=log_error(config, guarded.kl))
