"""Group-relative policy optimisation (arXiv 2402.03300) and its family: what SRL and RLVR share.

One step: draw P prompts, sample G rollouts of each, judge them, turn rewards into advantages within each group, and
take `updates_per_batch` optimiser steps on the clipped loss (rl/losses.py). In the first the policy is the one that
sampled, so its ratio is 1; from the second on the old log-probabilities are those of the sampler and clips are live.
Tests hold loss and gradient of each member to those of TRL's GRPOTrainer.

Legend: P prompts, G rollouts of each, B = P x G, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.losses import Normalisation
from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import KlPenalty, PolicyGradient
from stepforge_jobs.rl import losses
from stepforge_jobs.rl.advantages import group_advantages, has_spread
from stepforge_jobs.rl.kl import k1, k3, penalty
from stepforge_jobs.rl.losses import Whole
from stepforge_jobs.rl.welford import Moments
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.gathering import Gathered, Problem
from stepforge_jobs.training.loop import StepResult, Values
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.rollouts import RolloutStage
from stepforge_jobs.training.scoring import laid_out, pick
from stepforge_jobs.training.sharing import GRADIENT, Sharing


@dataclass(frozen=True)
class Batch:
    """Rollouts that the gradient is of. Rows of log-probabilities are a completion's tokens each."""

    prompts: list[list[int]]
    completions: list[list[int]]
    advantages_B: Tensor
    whole: Whole
    """What they are a part of: groups without spread may have been left out."""
    old: list[Tensor] | None = None
    """Log-probabilities of the policy that sampled; None where that is the policy itself."""
    reference: list[Tensor] | None = None
    """Those of the stage's initial policy; None where nothing pulls towards it."""
    importance: list[Tensor] | None = None
    """Weight of each token, where another engine drew it than the policy."""


class GrpoStage(RolloutStage[Problem]):
    """Any member of the family, as `work.loss` names it."""

    splits = True
    shared = (*RolloutStage.shared, GRADIENT)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._batch: Batch | None = None

    def backward(self, step: int, update: int) -> StepResult:
        """Sample and judge before the first update, and add the gradient of the clipped loss."""
        metrics: Values = {}
        if update == 0:
            rolled = self.roll_out(step)
            self._batch, found = self._prepare(rolled)
            metrics = rolled.metrics | found
        batch = self._batch
        assert batch is not None
        policy, work = self.policy, self.work
        metrics |= add_gradient(
            policy.network, batch, work=work, beta=self.beta, device=policy.device, sharing=self.sharing
        )
        if self.held is not None and batch.completions:
            with clock().phase(Metric.REFERENCE_SECONDS):
                self.held.add_gradient()
        return StepResult(metrics=metrics, tokens=sum(map(len, batch.completions)))

    def _prepare(self, rolled: Gathered) -> tuple[Batch, Values]:
        work, rewards_PG = self.work, rolled.rewards_PG
        # With no pull to a reference, a group without spread has a gradient of exactly zero: it need not be computed.
        spread_P = has_spread(rewards_PG) | bool(self.beta)
        kept_B = spread_P.repeat_interleave(rewards_PG.shape[1])
        kept = kept_B.nonzero()[:, 0].tolist()
        given = pick(rolled.prompts, kept), pick(rolled.completions, kept)
        engine = None if rolled.sampled_logps is None else pick(rolled.sampled_logps, kept)
        needs_old = work.updates_per_batch > 1 or work.kl_penalty == "k1_in_reward" or engine is not None
        old = self.old_logps(*given) if needs_old else None
        importance, found = self.importance(old or [], engine)
        reference = self.reference_logps(*given) if self.beta else None
        if reference is not None and work.kl_penalty == "k1_in_reward":
            assert old is not None
            sums = [float(k1(own, other).sum()) for own, other in zip(old, reference, strict=True)]
            rewards_PG = rewards_PG - self.beta * torch.tensor(sums).view_as(rewards_PG)
        self.rewards = self.rewards.merge(Moments.of(rewards_PG.flatten().tolist()))
        advantages_PG = group_advantages(rewards_PG, work.divisor, running=self.rewards)
        batch = Batch(
            *given,
            advantages_B=advantages_PG.flatten()[kept_B],
            whole=Whole(len(kept_B), sum(map(len, rolled.completions)), work.max_new_tokens),
            old=old if work.updates_per_batch > 1 else None,
            reference=reference,
            importance=importance,
        )
        return batch, found

    @property
    def choices(self) -> dict[str, Any]:
        work = self.work
        low, high = work.clips
        return {
            **GRPO_CHOICES,
            **super().choices,
            "loss": f"{work.loss}, ratio from {1 - low:g} to {1 + high:g}, {work.updates_per_batch} update(s) a batch",
            "advantage": ADVANTAGES[work.divisor],
            "kl_penalty": PENALTIES[work.kl_penalty] if self.beta else "none",
        }


def add_gradient(
    network: Any, batch: Batch, *, work: PolicyGradient, beta: float, device: torch.device, sharing: Sharing
) -> Values:
    """Add the gradient of the loss of the whole batch, part by part.

    Returns loss, entropy, the share of clipped tokens and, with a reference, the mean k3 of the batch.
    """
    loss_sum, entropy_sum, k3_sum, clipped, tokens = 0.0, 0.0, 0.0, 0.0, 0.0
    low, high = work.clips
    given = network, batch.prompts, batch.completions
    for part in sharing.parts(*given, temperature=work.temperature, device=device):
        rows, logps_BT, mask_BT = part.rows, part.logps_BT, part.mask_BT
        old_BT = logps_BT.detach() if batch.old is None else laid_out(pick(batch.old, rows), mask_BT)
        advantages_B1 = batch.advantages_B[rows].to(device)[:, None]
        values_BT = losses.token_losses(work.loss, logps_BT, old_BT, advantages_B1, mask_BT, clip=low, clip_high=high)
        if batch.reference is not None:
            reference_BT = laid_out(pick(batch.reference, rows), mask_BT)
            values_BT = values_BT + beta * penalty(work.kl_penalty, logps_BT, old_BT, reference_BT)
            k3_sum += float(k3(logps_BT.detach(), reference_BT)[mask_BT].sum())
        if batch.importance is not None:
            # The penalty too: it is a mean over the policy's tokens, and these are not quite its own.
            values_BT = values_BT * laid_out(pick(batch.importance, rows), mask_BT)
        loss = losses.share(work.loss, values_BT, mask_BT, batch.whole)
        with clock().phase(Metric.BACKWARD_SECONDS):
            loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
        entropy_sum += float(part.entropy_BT[mask_BT].sum())
        weights_BT = losses.weights(work.loss, logps_BT.detach(), old_BT, mask_BT)
        clipped += int(losses.out_of_range(weights_BT, advantages_B1, clip=low, clip_high=high)[mask_BT].sum())
        tokens += int(mask_BT.sum())
    loss_sum, entropy_sum, k3_sum, clipped, tokens = ranks().sum(loss_sum, entropy_sum, k3_sum, clipped, tokens)
    if not tokens:
        return {Metric.LOSS: 0.0}
    values: Values = {Metric.LOSS: loss_sum, Metric.ENTROPY: entropy_sum / tokens, Metric.CLIPPED: clipped / tokens}
    if batch.reference is not None:
        values[Metric.KL_K3] = k3_sum / tokens
    return values


ADVANTAGES: dict[Normalisation, str] = {
    "group": "(r - mean) / (std + 1e-4) within the group, std with Bessel's correction",
    "batch": "(r - the group's mean) / (the batch's std + 1e-4)",
    "none": "r - the group's mean",
    "running": "(r - the group's mean) / (std of all rewards so far + 1e-4)",
}
PENALTIES: dict[KlPenalty, str] = {
    "k3_times_ratio": "beta x k3 x ratio for each token, whose gradient is unbiased",
    "k2_as_loss": "beta x k2 for each token, whose gradient is unbiased on policy",
    "k1_in_reward": "the reward less beta x the sum of k1 over the rollout, before advantages",
}
GRPO_CHOICES: dict[str, Any] = {
    "tokens": "completion tokens of the groups that took part, in each update",
}
