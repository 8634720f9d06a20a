"""PPO's advantages and values, DPO's pairs and loss, against closed forms and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stepforge_jobs.rl import dpo
from stepforge_jobs.rl.ppo import gae, last_token, token_rewards, value_losses, whiten

B, T = 6, 9


@pytest.fixture
def mask() -> Tensor:
    """Ragged, with one rollout of one token and one that starts late."""
    lengths = torch.tensor([1, 9, 4, 7, 2, 5])
    made = torch.arange(T) < lengths[:, None]
    made[2] = made[2].roll(3)
    return made


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.97, 1.0), (0.8, 0.0)])
def test_advantages_are_the_sum_of_discounted_errors_by_brute_force(mask: Tensor, gamma: float, lam: float) -> None:
    rewards, values = normal(0, B, T) * mask, normal(1, B, T)
    found = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for b in range(B):
        at = mask[b].nonzero()[:, 0].tolist()
        r, v = rewards[b, at].tolist(), [*values[b, at].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(at))]
        wanted = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(at))) for t in range(len(at))]
        assert found[b, at].tolist() == pytest.approx(wanted, abs=1e-12)
        assert not found[b][~mask[b]].any()


def test_with_lambda_one_the_advantage_is_the_return_less_the_value_and_with_zero_the_error_of_one_step(
    mask: Tensor,
) -> None:
    rewards, values = normal(2, B, T) * mask, normal(3, B, T)
    whole = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    returns = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(whole[mask], (returns - values)[mask])
    one = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    assert one[1, 3].item() == pytest.approx((rewards[1, 3] + values[1, 4] - values[1, 3]).item())


def test_values_that_are_right_leave_no_advantage() -> None:
    """A reward of 1 at the end, discounted: V_t = gamma^(T - 1 - t) predicts it exactly."""
    gamma, mask = 0.9, torch.ones(1, 5, dtype=torch.bool)
    rewards = torch.tensor([[0.0, 0, 0, 0, 1]], dtype=torch.double)
    values = gamma ** torch.arange(4, -1, -1, dtype=torch.double)[None]
    assert gae(rewards, values, mask, gamma=gamma, lam=0.95).abs().max() < 1e-12


def test_the_verifiers_reward_stands_on_the_last_token_and_the_kl_on_each(mask: Tensor) -> None:
    logps, reference, rewards = normal(4, B, T), normal(5, B, T), normal(6, B)
    found = token_rewards(rewards, mask, logps_BT=logps, reference_logps_BT=reference, beta=0.3)
    for b in range(B):
        at = mask[b].nonzero()[:, 0].tolist()
        wanted = [-0.3 * (logps[b, t] - reference[b, t]).item() for t in at]
        wanted[-1] += rewards[b].item()
        assert found[b, at].tolist() == pytest.approx(wanted)
    assert not found[~mask].any()
    assert last_token(mask).sum(1).tolist() == [1.0] * B
    without = token_rewards(rewards, mask, logps_BT=logps, reference_logps_BT=None, beta=0.0)
    assert without.sum(1).tolist() == pytest.approx(rewards.tolist())


def test_a_value_that_moved_too_far_towards_its_return_has_no_gradient() -> None:
    values = torch.tensor([0.5, 0.1, -0.5], requires_grad=True)
    losses = value_losses(values, torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), clip=0.2)
    # Kept at .2; free; moved away from the return, where the unclipped error is the larger one.
    assert losses.tolist() == pytest.approx([0.8**2 / 2, 0.9**2 / 2, 1.5**2 / 2])
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.9, -1.5])


def test_whitened_rows_have_mean_zero_and_deviation_one_over_all_tokens() -> None:
    rows = whiten([normal(7, 3) * 4 + 2, normal(8, 11)])
    every = torch.cat(rows)
    assert [len(row) for row in rows] == [3, 11]
    assert every.mean().item() == pytest.approx(0, abs=1e-12)
    assert every.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_dpos_loss_and_gradient_are_the_closed_form() -> None:
    chosen, refused = normal(0, 5).requires_grad_(), normal(1, 5).requires_grad_()
    margins = dpo.margins(chosen, refused, normal(2, 5), normal(3, 5), beta=0.2)
    dpo.losses(margins).sum().backward()
    wanted = 0.2 * ((chosen - normal(2, 5)) - (refused - normal(3, 5)))
    assert margins.tolist() == pytest.approx(wanted.tolist())
    assert dpo.losses(margins).tolist() == pytest.approx([math.log1p(math.exp(-m)) for m in wanted.tolist()])
    pull = [-0.2 / (1 + math.exp(m)) for m in wanted.tolist()]
    assert chosen.grad is not None
    assert refused.grad is not None
    assert chosen.grad.tolist() == pytest.approx(pull)
    assert refused.grad.tolist() == pytest.approx([-p for p in pull])


def test_pairs_are_of_a_group_and_never_of_equal_rewards() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.2, 0.9, 0.5, 0.1]])
    found = dpo.pairs(rewards)
    assert found == [(1, 3), (9, 11), (10, 8)]
    assert all(best // 4 == worst // 4 for best, worst in found)
    assert len(dpo.pairs(torch.tensor([[1.0, 0.0, 1.0, 0.0]]))) == 2
