"""DPO (arXiv 2305.18290) on the stage's own rollouts: what the verifier passed against what it refused.

One step: sample G rollouts of each prompt from the current policy, or from the stage's initial one, judge them, pair
the best with the worst of each group, and take the gradient of -log sigmoid(beta x the difference of log-ratios), mean
over pairs. A prompt whose rollouts all have one reward makes no pair. Not covered: preferences that someone else gave.

Legend: P prompts, G rollouts of each, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import Dpo, RlvrWork
from stepforge_jobs.rl import dpo
from stepforge_jobs.training.clock import clock
from stepforge_jobs.training.gathering import Problem
from stepforge_jobs.training.loop import StepResult, Values
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.rollouts import RolloutStage
from stepforge_jobs.training.scoring import pick
from stepforge_jobs.training.sharing import GRADIENT, Sharing


@dataclass(frozen=True)
class Batch:
    """N pairs: the chosen and the refused completion of a prompt each."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    refused: list[list[int]]
    reference_chosen_N: Tensor
    reference_refused_N: Tensor


class DpoStage(RolloutStage[Problem]):
    splits = True
    shared = (*RolloutStage.shared, GRADIENT)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        assert isinstance(self.work, RlvrWork)
        self._dpo = self.work.dpo or Dpo()
        self._batch: Batch | None = None

    def backward(self, step: int, update: int) -> StepResult:
        """Sample, judge and pair before the first update, and add the gradient of the pairs' loss."""
        metrics: Values = {}
        if update == 0:
            self._batch, metrics = self._prepare(step)
        batch = self._batch
        assert batch is not None
        given = {"beta": self.work.beta, "temperature": self.work.temperature}
        metrics |= add_gradient(self.policy, batch, **given, sharing=self.sharing)
        if self.held is not None and batch.prompts:
            with clock().phase(Metric.REFERENCE_SECONDS):
                self.held.add_gradient()
        return StepResult(metrics=metrics, tokens=sum(map(len, batch.chosen)) + sum(map(len, batch.refused)))

    def _prepare(self, step: int) -> tuple[Batch, Values]:
        rolled = self.roll_out(step, self.reference if self._dpo.rollouts == "initial" else None)
        found = dpo.pairs(rolled.rewards_PG)
        prompts = [rolled.prompts[best] for best, _ in found]
        chosen, refused = (pick(rolled.completions, [pair[side] for pair in found]) for side in (0, 1))
        batch = Batch(
            prompts,
            chosen,
            refused,
            reference_chosen_N=sums_of(self.reference_logps(prompts, chosen)),
            reference_refused_N=sums_of(self.reference_logps(prompts, refused)),
        )
        return batch, rolled.metrics | {Metric.PAIRS: float(len(found))}

    @property
    def choices(self) -> dict[str, Any]:
        return {
            **super().choices,
            "loss": f"dpo, beta {self.work.beta:g}, mean over pairs, {self.updates} update(s) a batch, "
            f"log-probabilities at the sampler's temperature {self.work.temperature:g}",
            "pairs": "best with worst, second with second to last, within a group, where their rewards differ",
            "rollouts": f"of the {self._dpo.rollouts} policy",
        }


def add_gradient(policy: Policy, batch: Batch, *, beta: float, temperature: float, sharing: Sharing) -> Values:
    """Add the gradient of the mean loss of the pairs, part by part."""
    count = len(batch.prompts)
    loss_sum = 0.0
    margins: list[float] = []
    given = policy.network, batch.prompts, (batch.chosen, batch.refused)
    for rows, chosen_N, refused_N in sharing.pairs(*given, temperature=temperature, device=policy.device):
        margins_N = dpo.margins(
            chosen_N,
            refused_N,
            batch.reference_chosen_N[rows].to(policy.device),
            batch.reference_refused_N[rows].to(policy.device),
            beta=beta,
        )
        loss = dpo.losses(margins_N).sum() / count
        with clock().phase(Metric.BACKWARD_SECONDS):
            loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += float(loss.detach())
        margins += margins_N.tolist()
    loss_sum, margin_sum = ranks().sum(loss_sum, sum(margins))
    return {Metric.LOSS: loss_sum, **({Metric.MARGIN: margin_sum / count} if count else {})}


def sums_of(rows: list[Tensor]) -> Tensor:
    """Log-probabilities of whole completions, N."""
    return torch.stack([row.sum() for row in rows]) if rows else torch.zeros(0)
