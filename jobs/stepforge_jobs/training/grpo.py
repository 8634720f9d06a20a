"""Group-relative policy optimisation (arXiv 2402.03300): what SRL and RLVR share.

One step: draw P prompts, sample G rollouts of each, judge them, turn rewards into advantages within each group, and
take one gradient of the clipped loss, mean over each rollout's tokens and then over rollouts. The rollouts come from
the very weights that are updated, so the ratio is 1 and nothing is clipped. A test holds loss and gradient to those of
TRL's GRPOTrainer (loss_type "grpo"). Groups without spread take no part; not covered: sampling again in their place.

Legend: P prompts, G rollouts of each, B = P x G, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from stepforge.contracts.jobs import PolicyGradient
from stepforge.contracts.metrics import Metric
from stepforge.errors import InvalidInput
from stepforge_jobs.evaluation.sampling import sample, seed_of
from stepforge_jobs.rl.advantages import clipped_loss, group_advantages, has_spread, sequence_mean
from stepforge_jobs.rl.kl import k3
from stepforge_jobs.training.loop import Stage, StepResult, Values
from stepforge_jobs.training.scoring import micro_batches, pick, score
from stepforge_jobs.training.stage import Probe, Start, as_reference

ROLLOUTS = 1
"""Tells the seeds of rollouts from other seeds of the same step."""

Problem = TypeVar("Problem")


@dataclass(frozen=True)
class Judged:
    """Rewards of B rollouts, prompt by prompt, and the components that are logged apart."""

    rewards: list[float]
    metrics: Values


class GrpoStage(Stage, Generic[Problem]):
    """`draw` gives a step's problems with their prompts' tokens; `judge` gets each problem's rollouts in that order."""

    probe: Probe

    def __init__(
        self,
        start: Start,
        work: PolicyGradient,
        *,
        draw: Callable[[int], list[tuple[list[int], Problem]]],
        judge: Callable[[Sequence[Problem], Sequence[Sequence[int]]], Judged],
        stops: Collection[int],
    ) -> None:
        if work.beta and start.reference is None:
            raise InvalidInput(
                "beta > 0 needs a model to stay close to; a stage that starts from scratch has none: set beta to 0"
            )
        self._policy, self._reference = start.policy, start.reference
        self._work = work
        self._draw, self._judge, self._stops = draw, judge, stops
        self.probe = Probe(start, seed=work.seed)

    def backward(self, step: int, update: int) -> StepResult:
        """Sample, judge, and add the gradient of the clipped loss."""
        work, policy = self._work, self._policy
        drawn = self._draw(step)
        completions = sample(
            policy,
            [prompt for prompt, _ in drawn],
            count=work.group_size,
            max_new_tokens=work.max_new_tokens,
            temperature=work.temperature,
            seed=seed_of(work.seed, step, ROLLOUTS),
            stops=self._stops,
        )
        prompts = [prompt for prompt, _ in drawn for _ in range(work.group_size)]
        judged = self._judge([problem for _, problem in drawn for _ in range(work.group_size)], completions)
        rewards_PG = torch.tensor(judged.rewards).view(len(drawn), work.group_size)
        advantages_B = group_advantages(rewards_PG).flatten()
        spread_P = has_spread(rewards_PG)
        # With no pull to a reference, a group without spread has a gradient of exactly zero: it need not be computed.
        kept_B = (
            spread_P.repeat_interleave(work.group_size) if not work.beta else torch.ones(len(prompts), dtype=torch.bool)
        )
        kept = kept_B.nonzero()[:, 0].tolist()
        metrics: Values = {
            Metric.REWARD: float(rewards_PG.mean()),
            Metric.REWARD_STD: float(rewards_PG.std(1).mean()),
            Metric.ZERO_SPREAD: 1.0 - float(spread_P.float().mean()),
            Metric.COMPLETION_TOKENS: sum(len(c) for c in completions) / len(completions),
            **judged.metrics,
        }
        metrics |= add_gradient(
            policy.network,
            [prompts[i] for i in kept],
            [completions[i] for i in kept],
            advantages_B[kept_B],
            rollouts=len(prompts),
            work=work,
            device=policy.device,
            reference=self._reference if work.beta else None,
        )
        return StepResult(metrics=metrics, tokens=sum(len(completions[i]) for i in kept))


def add_gradient(
    network: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    advantages_B: torch.Tensor,
    *,
    rollouts: int,
    work: PolicyGradient,
    device: torch.device,
    reference: Any = None,
) -> Values:
    """Add the gradient of the loss over `rollouts` rollouts, of which those given may be the ones that carry a signal.

    Returns loss, entropy and, with a reference, the mean k3 of the batch.
    """
    loss_sum, entropy_sum, k3_sum, tokens = 0.0, 0.0, 0.0, 0
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    for rows in micro_batches(lengths, network.config.vocab_size, device=device):
        given = pick(prompts, rows), pick(completions, rows)
        scored = score(network, *given, device=device)
        logps_BT = scored.logps(work.temperature)
        penalty_BT = None
        if reference is not None:
            with torch.no_grad(), as_reference(reference):
                other = score(reference.network, *given, device=device)
                reference_logps_BT = other.logps(work.temperature)
            # Times the ratio, which is 1: without it k3 has the right value and a biased gradient.
            ratio_BT = (logps_BT - logps_BT.detach()).exp()
            penalty_BT = work.beta * ratio_BT * k3(logps_BT, reference_logps_BT)
            k3_sum += float(penalty_BT.detach()[scored.mask_BT].sum()) / work.beta
        advantages = advantages_B[rows].to(device)
        loss_BT = clipped_loss(logps_BT, logps_BT.detach(), advantages, clip=work.clip, penalty_BT=penalty_BT)
        loss = sequence_mean(loss_BT, scored.mask_BT).sum() / rollouts
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
        entropy_sum += float(scored.entropy(work.temperature)[scored.mask_BT].sum())
        tokens += int(scored.mask_BT.sum())
    if not tokens:
        return {Metric.LOSS: 0.0}
    values: Values = {Metric.LOSS: loss_sum, Metric.ENTROPY: entropy_sum / tokens}
    if reference is not None:
        values[Metric.KL_K3] = k3_sum / tokens
    return values


GRPO_CHOICES: dict[str, Any] = {
    "loss": "GRPO: mean over a rollout's tokens, then over all rollouts; one update a batch",
    "advantage": "(r - mean) / (std + 1e-4) within the group, std with Bessel's correction",
    "kl_penalty": "beta x k3 x ratio, whose gradient is unbiased",
    "dynamic_sampling": "none: groups without spread take no part, and a step of them alone changes nothing",
    "tokens": "completion tokens of the groups that took part",
}
