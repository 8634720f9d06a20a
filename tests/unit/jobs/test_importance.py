"""Weights of an engine's rollouts: in closed form, and, by enumeration, that no gradient is unbiased without them."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from tests.support.job_folders import TINY
from torch import Tensor

from stepforge.contracts.work import RlvrWork
from stepforge_jobs.rl import losses
from stepforge_jobs.rl.importance import importance
from stepforge_jobs.rl.losses import Whole
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.grpo import Batch, add_gradient
from stepforge_jobs.training.models import Policy, from_scratch
from stepforge_jobs.training.sharing import Sharing

UNCAPPED = 1e6
V = 3


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)


def test_weights_are_capped_ratios_and_the_figures_are_of_all_tokens() -> None:
    own = [torch.tensor([math.log(0.6), math.log(0.2)]), torch.tensor([math.log(0.5)])]
    engine = [torch.tensor([math.log(0.2), math.log(0.4)]), torch.tensor([math.log(0.5)])]
    by_token = importance(own, engine, cap=2.0, weigh="token")
    assert [row.tolist() for row in by_token.weights] == [pytest.approx([2.0, 0.5]), pytest.approx([1.0])]
    assert (by_token.mean, by_token.largest) == pytest.approx((4.5 / 3, 3.0))
    assert by_token.capped == pytest.approx(1 / 3)
    assert by_token.kl == pytest.approx(((3 - 1 - math.log(3)) + (0.5 - 1 - math.log(0.5))) / 3)
    by_rollout = importance(own, engine, cap=1.2, weigh="rollout")
    assert [row.tolist() for row in by_rollout.weights] == [pytest.approx([1.2, 1.2]), pytest.approx([1.0])]
    assert (by_rollout.mean, by_rollout.largest) == pytest.approx((4 / 3, 1.5))
    assert by_rollout.kl == pytest.approx(by_token.kl)


def test_a_token_that_the_engine_thought_impossible_weighs_no_more_than_the_cap() -> None:
    found = importance([torch.tensor([-0.1, -200.0])], [torch.tensor([-200.0, -0.1])], cap=2.0, weigh="token")
    assert found.weights[0].tolist() == pytest.approx([2.0, 0.0], abs=1e-6)
    assert all(map(math.isfinite, (found.kl, found.mean, found.largest)))


def tables(generator: torch.Generator, length: int) -> list[Tensor]:
    """Logits of each next token, by what was drawn before: shapes (V,), (V, V), and so on."""
    return [torch.randn([V] * (place + 1), generator=generator, dtype=torch.float64) for place in range(length)]


def logps_of(made: list[Tensor], completion: tuple[int, ...]) -> Tensor:
    rows = [torch.log_softmax(table, -1)[completion[: place + 1]] for place, table in enumerate(made)]
    return torch.stack(rows)


def bias(length: int, weigh: Literal["token", "rollout"] | None) -> float:
    """Of the mean gradient over what the engine draws, relative to that over what the policy draws; all enumerated."""
    generator = torch.Generator().manual_seed(0)
    policy = [table.requires_grad_() for table in tables(generator, length)]
    noises = tables(generator, length)
    engine = [table.detach() + 0.3 * noise for table, noise in zip(policy, noises, strict=True)]
    whole = Whole(rollouts=1, tokens=length, longest=length)
    mask_BT = torch.ones(1, length, dtype=torch.bool)
    wanted, found = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for completion in itertools.product(range(V), repeat=length):
        reward = torch.randn(1, 1, generator=generator, dtype=torch.float64)
        own, theirs = logps_of(policy, completion), logps_of(engine, completion)
        given = own[None], own.detach()[None], reward, mask_BT
        values_BT = losses.token_losses("dr_grpo", *given, clip=0.2, clip_high=0.2)
        wanted = wanted + own.detach().sum().exp() * losses.share("dr_grpo", values_BT, mask_BT, whole)
        if weigh is not None:
            values_BT = values_BT * importance([own.detach()], [theirs], cap=UNCAPPED, weigh=weigh).weights[0]
        found = found + theirs.sum().exp() * losses.share("dr_grpo", values_BT, mask_BT, whole)
    grads = [torch.autograd.grad(loss, policy, retain_graph=True) for loss in (wanted, found)]
    exact, biased = (torch.cat([gradient.flatten() for gradient in of]) for of in grads)
    return float((biased - exact).norm() / exact.norm())


def test_by_rollout_the_gradient_is_unbiased_and_without_weights_it_is_not() -> None:
    assert bias(3, "rollout") < 1e-12
    assert bias(3, None) > 0.1


def test_by_token_the_gradient_is_unbiased_for_one_token_and_nearer_for_more() -> None:
    assert bias(1, "token") < 1e-12
    assert bias(1, None) > 0.1
    assert 1e-3 < bias(3, "token") < 0.8 * bias(3, None)


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["reward", "penalty"])
def test_the_mean_gradient_of_a_network_over_an_engines_tokens_is_its_own_with_the_weights_alone(
    policy: Policy, beta: float
) -> None:
    """Every token of the vocabulary after one prompt: a rollout each, its advantage times how likely it is drawn."""
    (prompt,) = policy.codec.contexts(["n1 up x1 :"])
    count = policy.network.config.vocab_size
    prompts, completions = [prompt] * count, [[token] for token in range(count)]
    work = RlvrWork(loss="dr_grpo", max_new_tokens=1, beta=beta)
    sharing = Sharing(wanted=True)
    own = sharing.logps(policy.network, prompts, completions, temperature=1.0, device=policy.device)
    generator = torch.Generator().manual_seed(1)
    engine_N = torch.log_softmax(torch.cat(own) + torch.randn(count, generator=generator), -1)
    rewards_N = torch.randn(count, generator=generator)
    reference = [row + 0.5 for row in own] if beta else None

    def gradient(drawn_N: Tensor, weights_N: Tensor) -> Tensor:
        policy.network.zero_grad()
        batch = Batch(
            prompts,
            completions,
            advantages_B=rewards_N,
            whole=Whole(rollouts=1, tokens=count, longest=1),
            reference=reference,
            importance=list((drawn_N * weights_N).split(1)),
        )
        add_gradient(policy.network, batch, work=work, beta=beta, device=policy.device, sharing=sharing)
        return torch.cat([p.grad.flatten() for p in policy.network.parameters() if p.grad is not None])

    wanted = gradient(torch.cat(own).exp(), torch.ones(count))
    weights_N = torch.cat(importance(own, list(engine_N.split(1)), cap=UNCAPPED, weigh="token").weights)
    assert (gradient(engine_N.exp(), weights_N) - wanted).norm() < 1e-5 * wanted.norm()
    assert (gradient(engine_N.exp(), torch.ones(count)) - wanted).norm() > 0.2 * wanted.norm()
