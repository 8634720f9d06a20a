"""Advantages, losses, moments and exact KL against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepforge.contracts.losses import PolicyLoss, clips
from stepforge_jobs.rl.advantages import group_advantages, has_spread, sequence_mean
from stepforge_jobs.rl.losses import Whole, out_of_range, share, token_losses
from stepforge_jobs.rl.welford import Moments

LOSSES: list[PolicyLoss] = ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]


def test_advantages_are_z_scores_within_the_group() -> None:
    rewards = np.random.default_rng(0).random((5, 8))
    wanted = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    assert group_advantages(torch.tensor(rewards)).numpy() == pytest.approx(wanted, abs=1e-12)


def test_other_normalisations_divide_the_same_centred_rewards_by_another_deviation() -> None:
    rewards = np.random.default_rng(1).random((5, 8))
    before = np.random.default_rng(2).random(400) * 9
    centred, given_rewards = rewards - rewards.mean(1, keepdims=True), torch.tensor(rewards)
    assert group_advantages(given_rewards, "none").numpy() == pytest.approx(centred, abs=1e-12)
    batch = centred / (rewards.std(ddof=1) + 1e-4)
    assert group_advantages(given_rewards, "batch").numpy() == pytest.approx(batch, abs=1e-12)
    running = Moments.of(before.tolist()).merge(Moments.of(rewards.flatten().tolist()))
    all_so_far = centred / (np.concatenate([before, rewards.flatten()]).std(ddof=1) + 1e-4)
    assert group_advantages(given_rewards, "running", running=running).numpy() == pytest.approx(all_so_far, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.lists(st.floats(-1e3, 1e3), max_size=30), min_size=1, max_size=8),
    offset=st.sampled_from([0.0, 1e6]),
)
def test_merged_moments_are_those_of_numpy_over_all_values(parts: list[list[float]], offset: float) -> None:
    shifted = [[value + offset for value in part] for part in parts]
    every = np.array([value for part in shifted for value in part])
    merged = Moments()
    for part in shifted:
        merged = merged.merge(Moments.of(part))
    backwards = Moments()
    for part in reversed(shifted):
        backwards = Moments.of(part).merge(backwards)
    assert merged.count == backwards.count == len(every)
    if len(every) > 1:
        assert merged.mean == pytest.approx(every.mean(), rel=1e-12, abs=1e-9)
        assert merged.std == pytest.approx(every.std(ddof=1), rel=1e-9, abs=1e-6)
        assert backwards.std == pytest.approx(merged.std, rel=1e-9, abs=1e-6)
    assert Moments.from_state(merged.state_dict()) == merged


def test_one_format_failure_among_good_steps_has_the_advantages_that_science_predicts() -> None:
    advantages = group_advantages(torch.tensor([[0.6] * 7 + [-1.0]]))
    # With the population's deviation it would be +.378 and -2.646; Bessel's correction divides by sqrt(8/7) more.
    assert advantages[0, 0].item() == pytest.approx(1 / math.sqrt(7) * math.sqrt(7 / 8), abs=1e-3)
    assert advantages[0, 7].item() == pytest.approx(-math.sqrt(7) * math.sqrt(7 / 8), abs=1e-2)


@pytest.mark.parametrize("normalisation", ["group", "batch", "none", "running"])
def test_a_group_without_spread_has_advantages_of_exactly_zero(normalisation: str) -> None:
    rewards = torch.tensor([[0.1] * 3, [0.1, 0.1, 0.2]])
    assert has_spread(rewards).tolist() == [False, True]
    found = group_advantages(rewards, normalisation, running=Moments.of([0.0, 1.0]))  # type: ignore[arg-type]
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert found[1, 2] > 0


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_the_loss_is_clipped_where_the_ratio_left_the_range_in_the_advantages_direction(loss: PolicyLoss) -> None:
    ratio, advantages = torch.tensor([[1.5, 0.5, 1.1], [1.5, 0.5, 1.1]]), torch.tensor([[2.0], [-2.0]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    found = token_losses(loss, ratio.log(), torch.zeros(2, 3), advantages, mask, clip=0.2, clip_high=0.3)
    assert found.flatten().tolist() == pytest.approx([-2.6, -1.0, -2.2, 3.0, 1.6, 2.2], abs=1e-6)
    clipped = out_of_range(ratio, advantages, clip=0.2, clip_high=0.3)
    assert clipped.flatten().tolist() == [True, False, False, False, True, False]


def test_gspo_weighs_every_token_by_the_geometric_mean_ratio_of_its_rollout() -> None:
    ratio = torch.tensor([[4.0, 1.0, 7.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = token_losses("gspo", ratio.log(), torch.zeros(2, 3), torch.ones(2, 1), mask, clip=5, clip_high=5)
    assert found[0].tolist() == pytest.approx([-2.0] * 3)


def test_cispo_learns_from_clipped_tokens_too() -> None:
    logps = torch.tensor([[3.0, 0.5]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    token_losses("cispo", logps, torch.zeros(1, 2), torch.tensor([[2.0]]), mask, clip=1, clip_high=4).sum().backward()
    assert logps.grad is not None
    assert logps.grad.flatten().tolist() == pytest.approx([-2 * 5.0, -2 * math.exp(0.5)])


@pytest.mark.parametrize("loss", LOSSES)
def test_shares_of_micro_batches_add_up_to_the_loss_of_the_batch(loss: PolicyLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    values, mask = torch.randn(7, 9, generator=generator), torch.rand(7, 9, generator=generator) < 0.6
    whole = Whole(rollouts=7, tokens=int(mask.sum()), longest=9)
    parts = sum(share(loss, values[rows], mask[rows], whole) for rows in (slice(0, 1), slice(1, 5), slice(5, 7)))
    assert parts.item() == pytest.approx(share(loss, values, mask, whole).item(), abs=1e-6)  # type: ignore[union-attr]


def test_a_clip_that_is_asked_for_replaces_the_losss_own() -> None:
    assert clips("dapo", None, None) == (0.2, 0.28)
    assert clips("dapo", 0.1, None) == (0.1, 0.1)
    assert clips("gspo", None, 0.5) == (3e-4, 0.5)


def test_every_rollout_weighs_the_same_however_long_it_is() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert sequence_mean(values, mask).tolist() == [1.5, 4.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_on_the_policy_that_sampled_no_clip_changes_the_gradient(loss: PolicyLoss) -> None:
    found = []
    for clip in (1e-4, 5.0):
        logps = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        advantages, mask = torch.tensor([[1.0], [-2.0], [0.5]]), torch.ones(3, 4, dtype=torch.bool)
        each = token_losses(loss, logps, logps.detach(), advantages, mask, clip=clip, clip_high=clip)
        each.sum().backward()
        found.append(logps.grad)
    assert torch.equal(*found)
    assert bool(found[0].any())
