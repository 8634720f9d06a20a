"""Settings of reinforcement learning's parts: what holds the KL, who samples, and what PPO and DPO need beside GRPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, PositiveFloat, PositiveInt, Share, refuse_unread

KlPenalty = Literal["k3_times_ratio", "k2_as_loss", "k1_in_reward"]


class KlControl(Contract):
    """Holds the exact KL to the stage's initial policy on retained prompts below a cap, by its weight beta.

    >>> KlControl().target
    0.06
    """

    cap: PositiveFloat = 0.1
    """Nats a token. Weights that are over it at an evaluation do not stay."""
    aim: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Share of the cap that the controller steers towards."""
    controller: Literal["pi", "ziegler"] = "pi"
    """`pi`: in log space, on a moving average. `ziegler`: arXiv 1909.08593, too slow to hold a cap by itself."""
    penalise: Literal["retained", "rollouts"] = "retained"
    """`retained`: beta weighs the exact KL on the completions that the controller measures, one of each of the probe's
    prompts in every step, so that problems which need distance may take it. `rollouts`: on the batch, by `kl_penalty`.
    """
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Weight of the past in the moving average."""
    proportional: Annotated[float, Field(ge=0)] = 2.0
    integral: Annotated[float, Field(ge=0)] = 0.2
    beta_min: PositiveFloat = 0.01
    beta_max: PositiveFloat = 10.0
    """Bounds of the weight, which starts at the lower one."""
    horizon: PositiveInt = 10_000
    """Ziegler's, in rollouts."""
    guard: bool = True
    """Over the cap at an evaluation: weights and moments go back, the learning rate halves, beta doubles."""

    @property
    def target(self) -> float:
        return self.cap * self.aim

    @model_validator(mode="after")
    def _bounds_are_a_range(self) -> Self:
        if self.beta_min >= self.beta_max:
            raise ValueError(f"beta_min {self.beta_min} must be below beta_max {self.beta_max}")
        return self

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        refuse_unread(self, self.unread())
        return self

    def unread(self) -> dict[str, str]:
        """Settings that nothing reads as the others are, and why."""
        other = {"pi": ("horizon",), "ziegler": ("memory", "proportional", "integral")}[self.controller]
        return dict.fromkeys(other, f"where controller is {self.controller!r}")


class Vllm(Contract):
    """Rollouts come from vLLM on the same GPU, by the policy's present weights, in place of our own sampler.

    vLLM's probabilities are not the network's to the last digits, so each token's part of the gradient is weighed by
    min(p of the network / p of vLLM, cap): truncated importance sampling (Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl; TRL's `vllm_importance_sampling_mode`). vLLM promises no bits: a run that
    was interrupted ends near the one that was not, in place of at the same bits.

    >>> Vllm().cap
    2.0
    """

    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the GPU's memory that vLLM may take while it samples; in between it gives it back."""
    cap: Annotated[float, Field(ge=1)] = 2.0
    """Largest weight. 2 is what the source took; TRL's default is 3."""
    weigh: Literal["token", "rollout"] = "token"
    """`token`: each by its own probabilities; little noise, and what stands before and after it is not weighed.
    `rollout`: all tokens of a rollout by that of the whole rollout; unbiased but for the cap, and noisy where
    completions are long."""


VLLM_TEMPERATURES = (0.01, 2.0)
"""vLLM raises what is below to the lower one, with a warning alone, and refuses what is above the upper one."""


class Ppo(Contract):
    """What PPO (arXiv 1707.06347) needs beside what it shares with GRPO."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    lam: Share = 0.95
    """Lambda of the generalised advantages (arXiv 1506.02438)."""
    value_clip: PositiveFloat = 0.2
    """How far a value may move from the one before the batch's updates."""
    value_step: PositiveFloat = 0.1
    """About how far an update moves a value at the peak of the learning rate, however low that is for the model."""


class Dpo(Contract):
    """What DPO (arXiv 2305.18290) needs beside `beta`."""

    rollouts: Literal["current", "initial"] = "current"
    """Whose completions make the pairs: those of the policy as it is, or of the one that the stage began with."""
