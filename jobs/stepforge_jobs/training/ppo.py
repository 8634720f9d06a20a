"""PPO (arXiv 1707.06347) with a value head and generalised advantages, in the same loop as the other stages.

One step: sample and judge as GRPO does, then give each token an advantage: the verifier's reward stands on a rollout's
last token, -beta x k1 on each, and a linear head on the network's last hidden state says what was to be expected. The
head reads the hidden states without sending its gradient into them, so the policy is moved by rewards alone; it is in
checkpoints and not in the saved model. Not covered: a value network of its own, bootstrapping what ran out of tokens.

Legend: B rollouts, T completion tokens, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import Ppo, RlvrWork
from stepforge_jobs.rl import losses
from stepforge_jobs.rl.advantages import STD_FLOOR
from stepforge_jobs.rl.kl import k3
from stepforge_jobs.rl.losses import Whole
from stepforge_jobs.rl.ppo import gae, token_rewards, value_losses, whiten
from stepforge_jobs.rl.welford import Moments
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.gathering import Gathered, Problem
from stepforge_jobs.training.loop import StepResult, Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.rollouts import RolloutStage
from stepforge_jobs.training.scoring import Scored, gathered, laid_out, micro_batches, pick, score

VALUE_SHARE = 0.1
"""Weight of the values' loss. Adam does not see it; the gradient's norm, which is clipped, does."""


@dataclass(frozen=True)
class Batch:
    """Rollouts, and a row of numbers for each one's tokens."""

    prompts: list[list[int]]
    completions: list[list[int]]
    old: list[Tensor]
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]
    importance: list[Tensor] | None
    """Weight of each token, where another engine drew it than the policy."""


class ValueHead:
    """A linear map from hidden states, with a pace of its own in an optimiser that has one learning rate for all.

    Adam moves each weight by about its rate whatever the gradient's size. So with weights that count `scale` / H times,
    an update moves the value by about `scale` x the rate for hidden states of size 1, however many there are.
    """

    def __init__(self, policy: Policy, *, scale: float) -> None:
        hidden = policy.network.config.hidden_size
        self.scale = scale
        self.weight_H = nn.Parameter(torch.zeros(hidden, device=policy.device))
        self.bias = nn.Parameter(torch.zeros((), device=policy.device))

    def __call__(self, scored: Scored) -> Tensor:
        """What is to be expected before each token, BT."""
        assert scored.hidden_BTH is not None
        hidden_BTH = scored.hidden_BTH
        return self.scale * (hidden_BTH.detach().float() @ self.weight_H / len(self.weight_H) + self.bias)


class PpoStage(RolloutStage[Problem]):
    splits = True

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        assert isinstance(self.work, RlvrWork)
        self._ppo = self.work.ppo or Ppo()
        self._head = ValueHead(self.policy, scale=self._ppo.value_step / self.work.learning_rate)
        self._batch: Batch | None = None

    def parameters(self) -> dict[str, Tensor]:
        return {"value_head.weight": self._head.weight_H, "value_head.bias": self._head.bias}

    def backward(self, step: int, update: int) -> StepResult:
        """Sample and judge before the first update, and add the gradients of the policy's and the values' losses."""
        metrics: Values = {}
        if update == 0:
            rolled = self.roll_out(step)
            metrics = rolled.metrics
            self._batch, found = self._prepare(rolled) if rolled.completions else (None, {})
            metrics |= found
        if self._batch is None:
            return StepResult(metrics=metrics, tokens=0)
        metrics |= self._add_gradient(self._batch)
        if self.held is not None:
            with clock().phase(Metric.REFERENCE_SECONDS):
                self.held.add_gradient()
        return StepResult(metrics=metrics, tokens=sum(map(len, self._batch.completions)))

    def _prepare(self, rolled: Gathered) -> tuple[Batch, Values]:
        """Advantages and returns from the log-probabilities and values of the policy that sampled."""
        given = rolled.prompts, rolled.completions
        old, values = self.old_logps(*given), self._old_values(*given)
        reference = self.reference_logps(*given) if self.beta else None
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in old], batch_first=True) > 0
        old_BT, values_BT = laid_out(old, mask_BT), laid_out(values, mask_BT)
        reference_BT = None if reference is None else laid_out(reference, mask_BT)
        rewards_B = self._normalised(rolled.rewards_PG.flatten()).to(old_BT.device)
        rewards_BT = token_rewards(rewards_B, mask_BT, logps_BT=old_BT, reference_logps_BT=reference_BT, beta=self.beta)
        advantages_BT = gae(rewards_BT, values_BT, mask_BT, gamma=self._ppo.gamma, lam=self._ppo.lam)
        returns_BT = advantages_BT + values_BT
        importance, found = self.importance(old, rolled.sampled_logps)
        metrics: Values = found | {Metric.EXPLAINED: explained(returns_BT[mask_BT], values_BT[mask_BT])}
        if reference_BT is not None:
            metrics[Metric.KL_K3] = float(k3(old_BT, reference_BT)[mask_BT].mean())

        def rows(values_BT: Tensor) -> list[Tensor]:
            return [values_T[mask_T] for values_T, mask_T in zip(values_BT, mask_BT, strict=True)]

        return Batch(*given, old, values, whiten(rows(advantages_BT)), rows(returns_BT), importance), metrics

    def _normalised(self, rewards_B: Tensor) -> Tensor:
        batch = Moments.of(rewards_B.tolist())
        self.rewards = self.rewards.merge(batch)
        moments = {"batch": batch, "running": self.rewards}.get(self.work.divisor)
        return rewards_B if moments is None else (rewards_B - moments.mean) / (moments.std + STD_FLOOR)

    @torch.no_grad()
    def _old_values(self, prompts: list[list[int]], completions: list[list[int]]) -> list[Tensor]:
        policy = self.policy
        found: list[Tensor] = [torch.empty(0)] * len(prompts)
        policy.network.eval()
        for rows in self._micro_batches(prompts, completions):
            given = pick(prompts, rows), pick(completions, rows)
            scored = score(policy.network, *given, device=policy.device, hidden=True)
            for row, values_T, mask_T in zip(rows, self._head(scored), scored.mask_BT, strict=True):
                found[row] = values_T[mask_T]
        policy.network.train()
        return gathered(found)

    def _add_gradient(self, batch: Batch) -> Values:
        """Mean over the batch's tokens of both losses."""
        work, policy = self.work, self.policy
        low, high = work.clips
        tokens = sum(map(len, batch.completions))
        whole = Whole(len(batch.prompts), tokens, work.max_new_tokens)
        policy_sum, value_sum, entropy_sum, clipped = 0.0, 0.0, 0.0, 0.0
        for rows in self._micro_batches(batch.prompts, batch.completions):
            given = pick(batch.prompts, rows), pick(batch.completions, rows)
            with clock().phase(Metric.FORWARD_SECONDS):
                scored = score(policy.network, *given, device=policy.device, hidden=True)
            mask_BT, logps_BT = scored.mask_BT, scored.logps(work.temperature)
            old_BT, old_values_BT, advantages_BT, returns_BT = (
                laid_out(pick(of, rows), mask_BT) for of in (batch.old, batch.values, batch.advantages, batch.returns)
            )
            policy_BT = losses.token_losses("grpo", logps_BT, old_BT, advantages_BT, mask_BT, clip=low, clip_high=high)
            if batch.importance is not None:
                policy_BT = policy_BT * laid_out(pick(batch.importance, rows), mask_BT)
            value_BT = value_losses(self._head(scored), old_values_BT, returns_BT, clip=self._ppo.value_clip)
            policy_loss, value_loss = (losses.share("dapo", of, mask_BT, whole) for of in (policy_BT, value_BT))
            # The head's scale is in its gradient too, where the clipped norm would feel it.
            with clock().phase(Metric.BACKWARD_SECONDS):
                (policy_loss + VALUE_SHARE / self._head.scale * value_loss).backward()
            policy_sum, value_sum = policy_sum + float(policy_loss.detach()), value_sum + float(value_loss.detach())
            entropy_sum += float(scored.entropy(work.temperature)[mask_BT].sum())
            ratio_BT = (logps_BT.detach() - old_BT).exp()
            clipped += int(losses.out_of_range(ratio_BT, advantages_BT, clip=low, clip_high=high)[mask_BT].sum())
        policy_sum, value_sum, entropy_sum, clipped = ranks().sum(policy_sum, value_sum, entropy_sum, clipped)
        return {
            Metric.LOSS: policy_sum,
            Metric.VALUE_LOSS: value_sum,
            Metric.ENTROPY: entropy_sum / tokens,
            Metric.CLIPPED: clipped / tokens,
        }

    def _micro_batches(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[int]]:
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        return list(micro_batches(lengths, self.policy.network.config.vocab_size, device=self.policy.device))

    @property
    def choices(self) -> dict[str, Any]:
        ppo, (low, high) = self._ppo, self.work.clips
        return {
            **super().choices,
            "loss": f"ppo, mean over tokens, ratio from {1 - low:g} to {1 + high:g}, {self.updates} update(s) a batch",
            "advantage": f"generalised, gamma {ppo.gamma:g}, lambda {ppo.lam:g}, whitened over the batch's tokens",
            "rewards": f"normalised by {self.work.divisor}; the last token is terminal",
            "kl_penalty": "beta x k1 in each token's reward" if self.beta else "none",
            "value": f"linear on detached hidden states, step {ppo.value_step:g}, clip {ppo.value_clip:g}",
        }


def explained(returns: Tensor, values: Tensor) -> float:
    """Share of the returns' variance that the values explain: 1 is all, 0 no better than their mean."""
    variance = float(returns.var(correction=0))
    return 1.0 - float((returns - values).var(correction=0)) / variance if variance > 0 else 0.0
