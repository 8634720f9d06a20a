"""Advantages, losses and KL against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stepforge_jobs.rl.advantages import clipped_loss, group_advantages, has_spread, sequence_mean
from stepforge_jobs.rl.kl import exact_kl, k1, k2, k3


def test_advantages_are_z_scores_within_the_group() -> None:
    rewards = np.random.default_rng(0).random((5, 8))
    wanted = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    assert group_advantages(torch.tensor(rewards)).numpy() == pytest.approx(wanted, abs=1e-12)


def test_one_format_failure_among_good_steps_has_the_advantages_that_science_predicts() -> None:
    advantages = group_advantages(torch.tensor([[0.6] * 7 + [-1.0]]))
    # With the population's deviation it would be +.378 and -2.646; Bessel's correction divides by sqrt(8/7) more.
    assert advantages[0, 0].item() == pytest.approx(1 / math.sqrt(7) * math.sqrt(7 / 8), abs=1e-3)
    assert advantages[0, 7].item() == pytest.approx(-math.sqrt(7) * math.sqrt(7 / 8), abs=1e-2)


def test_a_group_without_spread_has_advantages_of_exactly_zero() -> None:
    rewards = torch.tensor([[0.1] * 3, [0.1, 0.1, 0.2]])
    assert has_spread(rewards).tolist() == [False, True]
    assert group_advantages(rewards)[0].tolist() == [0.0, 0.0, 0.0]


def test_the_loss_is_clipped_where_the_ratio_left_the_range_in_the_advantages_direction() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.1], [1.5, 0.5, 1.1]])
    loss = clipped_loss(ratio.log(), torch.zeros(2, 3), torch.tensor([2.0, -2.0]), clip=0.2)
    assert loss.flatten().tolist() == pytest.approx([-2.4, -1.0, -2.2, 3.0, 1.6, 2.2], abs=1e-6)


def test_every_rollout_weighs_the_same_however_long_it_is() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert sequence_mean(values, mask).tolist() == [1.5, 4.0]


def test_exact_kl_is_the_sum_over_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 11, generator=generator), torch.randn(6, 11, generator=generator)
    p, q = a.softmax(-1).double().numpy(), b.softmax(-1).double().numpy()
    assert exact_kl(a, b).numpy() == pytest.approx((p * np.log(p / q)).sum(-1), abs=1e-5)
    assert exact_kl(a, a + 3.0).abs().max() < 1e-6


def test_k1_and_k3_average_to_the_exact_kl_over_the_policys_own_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(9, generator=generator), torch.randn(9, generator=generator)
    logp, logq, p = policy.log_softmax(-1), reference.log_softmax(-1), policy.softmax(-1)
    exact = exact_kl(policy, reference).item()
    assert (p * k1(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-6)
    assert (p * k3(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-6)
    assert k3(logp, logq).min() >= 0
    assert k2(logp, logq).tolist() == pytest.approx(((logq - logp) ** 2 / 2).tolist())


def test_the_gradient_of_k2_on_policy_is_that_of_the_exact_kl() -> None:
    reference = torch.randn(7, generator=torch.Generator().manual_seed(2))
    logits = torch.randn(7, generator=torch.Generator().manual_seed(3), requires_grad=True)
    (exact,) = torch.autograd.grad(exact_kl(logits, reference), logits)
    weights = logits.detach().softmax(-1)
    (estimated,) = torch.autograd.grad((weights * k2(logits.log_softmax(-1), reference.log_softmax(-1))).sum(), logits)
    assert torch.allclose(exact, estimated, atol=1e-6)


def test_k3_does_not_overflow_where_the_policy_left_the_reference() -> None:
    assert torch.isfinite(k3(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]))).all()
