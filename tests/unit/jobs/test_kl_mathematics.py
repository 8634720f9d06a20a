"""Estimators of KL by enumeration: expectations over a whole small vocabulary, so no sampling error is left."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stepforge.contracts.work import KlPenalty
from stepforge_jobs.rl.kl import CLAMP, exact_kl, k1, k2, k3, penalty

VOCABULARY = 6


@pytest.fixture
def reference() -> Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1), dtype=torch.double).log_softmax(-1)


@pytest.fixture
def logits() -> Tensor:
    made = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return made.requires_grad_()


def exact(logits: Tensor, reference: Tensor) -> Tensor:
    """In double precision; `exact_kl` itself is float32 at heart."""
    logp = logits.log_softmax(-1)
    return (logp.exp() * (logp - reference)).sum()


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


def test_exact_kl_is_the_sum_over_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 11, generator=generator), torch.randn(6, 11, generator=generator)
    p, q = a.softmax(-1).double().numpy(), b.softmax(-1).double().numpy()
    assert exact_kl(a, b).numpy() == pytest.approx((p * np.log(p / q)).sum(-1), abs=1e-5)
    assert exact_kl(a, a + 3.0).abs().max() < 1e-6


def test_the_values_of_k1_and_k3_are_unbiased_and_that_of_k2_is_not(logits: Tensor, reference: Tensor) -> None:
    logp = logits.detach().log_softmax(-1)
    wanted = exact(logits, reference).item()
    means = {name: (logp.exp() * of(logp, reference)).sum().item() for name, of in (("k1", k1), ("k2", k2), ("k3", k3))}
    assert means["k1"] == pytest.approx(wanted, abs=1e-12)
    assert means["k3"] == pytest.approx(wanted, abs=1e-12)
    assert abs(means["k2"] - wanted) > 0.01
    assert k3(logp, reference).min() >= 0


@pytest.mark.parametrize("form", ["k3_times_ratio", "k2_as_loss"])
def test_the_gradient_of_a_penalty_is_that_of_the_exact_kl_on_policy(
    logits: Tensor, reference: Tensor, form: KlPenalty
) -> None:
    logp = logits.log_softmax(-1)
    sampled = logp.detach()
    found = gradient((sampled.exp() * penalty(form, logp, sampled, reference)).sum(), logits)
    assert torch.allclose(found, gradient(exact(logits, reference), logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["k3_times_ratio", "k2_as_loss"])
def test_off_policy_too_because_the_ratio_is_in_it(logits: Tensor, reference: Tensor, form: KlPenalty) -> None:
    old = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3), dtype=torch.double).log_softmax(-1)
    found = gradient((old.exp() * penalty(form, logits.log_softmax(-1), old, reference)).sum(), logits)
    assert torch.allclose(found, gradient(exact(logits, reference), logits), rtol=0, atol=1e-12)


def test_k3_as_a_plain_loss_has_the_gradient_of_the_reverse_divergence(logits: Tensor, reference: Tensor) -> None:
    logp = logits.log_softmax(-1)
    found = gradient((logp.detach().exp() * k3(logp, reference)).sum(), logits)
    reverse = gradient((reference.exp() * (reference - logits.log_softmax(-1))).sum(), logits)
    assert torch.allclose(found, reverse, rtol=0, atol=1e-12)
    assert not torch.allclose(found, gradient(exact(logits, reference), logits), rtol=0.1, atol=0)


def test_k1_as_a_plain_loss_has_no_gradient_at_all_in_the_mean(logits: Tensor, reference: Tensor) -> None:
    logp = logits.log_softmax(-1)
    assert gradient((logp.detach().exp() * k1(logp, reference)).sum(), logits).abs().max() < 1e-12


def test_the_sum_of_k1_in_the_reward_has_the_gradient_of_the_kl_between_sequences() -> None:
    """Two tokens, the second's distribution depends on the first: what single tokens' penalties leave out."""
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(3, generator=generator, dtype=torch.double).requires_grad_()
    second = torch.randn(3, 3, generator=generator, dtype=torch.double).requires_grad_()
    other_first = torch.randn(3, generator=generator, dtype=torch.double).log_softmax(-1)
    other_second = torch.randn(3, 3, generator=generator, dtype=torch.double).log_softmax(-1)
    a, b = first.log_softmax(-1), second.log_softmax(-1)
    sequence_kl = (a.exp() * (a - other_first)).sum() + (a.exp() * (b.exp() * (b - other_second)).sum(-1)).sum()
    wanted = torch.autograd.grad(sequence_kl, [first, second], retain_graph=True)
    surrogate = torch.zeros((), dtype=torch.double)
    for x, y in itertools.product(range(3), repeat=2):
        logps = torch.stack([a[x], b[x, y]])
        reward = -k1(logps.detach(), torch.stack([other_first[x], other_second[x, y]])).sum()
        surrogate = surrogate - logps.sum().detach().exp() * reward * logps.sum()
    found = torch.autograd.grad(surrogate, [first, second])
    assert all(torch.allclose(one, other, rtol=0, atol=1e-12) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("form", ["k3_times_ratio", "k2_as_loss"])
@pytest.mark.parametrize("gap", [-500.0, 500.0], ids=["forbidden-by-reference", "forgotten"])
def test_beyond_the_clamp_values_are_finite_and_still_pull_back(form: KlPenalty, gap: float) -> None:
    logps = torch.tensor([0.0 if gap < 0 else -500.0], requires_grad=True)
    reference = logps.detach() + gap
    value = penalty(form, logps, logps.detach(), reference)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert value.item() <= max(CLAMP**2 / 2, float(np.expm1(CLAMP)))
    assert logps.grad is not None
    # A step down the gradient makes likelier what the reference likes better, and unlikelier what it forbids.
    assert logps.grad.item() == pytest.approx(-math.copysign(CLAMP, gap))
