"""Training that has left the numbers ends with what to change; no checkpoint and no token is made of nan."""

from __future__ import annotations

import math

import pytest
import torch

from stepforge.contracts.work import SftWork
from stepforge.errors import Diverged
from stepforge_jobs.evaluation.sampling import choose
from stepforge_jobs.training.loop import Stage, StepResult, take_step
from stepforge_jobs.training.state import Trained, TrainingState

WORK = SftWork(name="base", steps=10, learning_rate=1e3, warmup_steps=3)


class Slope(Stage):
    """The gradient of every weight is `slope`."""

    def __init__(self, weights: torch.Tensor, slope: float) -> None:
        self.weights, self.slope = weights, slope

    def backward(self, step: int, update: int) -> StepResult:
        self.weights.grad = torch.full_like(self.weights, self.slope)
        return StepResult(metrics={}, tokens=1)


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_no_weight(slope: float) -> None:
    weights = torch.nn.Parameter(torch.ones(3))
    trained = Trained({"w": weights}, torch.optim.AdamW([weights]))
    with pytest.raises(Diverged, match=rf"'base' in step 5 is {slope}.*Lower learning_rate 1000.*warmup_steps 3"):
        take_step(WORK, Slope(weights, slope), trained, TrainingState(step=4))
    assert weights.tolist() == [1.0] * 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("worst", [math.nan, math.inf])
def test_no_token_is_sampled_from_logits_that_are_no_numbers(worst: float, temperature: float) -> None:
    draws_B = torch.tensor([0.1, 0.9], dtype=torch.double)
    with pytest.raises(Diverged, match="no token can be sampled"):
        choose(torch.tensor([[0.0, 1.0], [worst, 0.0]]), temperature, draws_B)
    assert choose(torch.tensor([[0.0, 1.0], [-math.inf, 0.0]]), temperature, draws_B)[1] == 1
