"""Our losses against TRL's on the same rollouts: values and gradients, on and off policy, with and without a reference.

TRL's `_compute_loss` runs on an instance without its heavy parts: what it reads is set by hand.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest
import torch
from tests.support.job_folders import TINY
from tests.support.stock_trl import trl_inputs, trl_trainer
from torch import Tensor

from stepforge.contracts.losses import PolicyLoss, clips
from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import SrlWork
from stepforge_jobs.rl import losses
from stepforge_jobs.rl.advantages import group_advantages
from stepforge_jobs.rl.kl import k3, penalty
from stepforge_jobs.rl.losses import Whole
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training import dpo, scoring
from stepforge_jobs.training import sharing as sharing_module
from stepforge_jobs.training.grpo import Batch, add_gradient
from stepforge_jobs.training.models import Policy, from_scratch
from stepforge_jobs.training.sharing import SWITCHED_OFF, Sharing

G = 4
LONGEST = 8
CPU = torch.device("cpu")
LOSSES: list[PolicyLoss] = ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
Rolled = tuple[list[list[int]], list[list[int]], Tensor]


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)


def rollouts(policy: Policy, seed: int) -> Rolled:
    """Prompts and completions of different lengths, and rewards; one group has no spread."""
    generator = torch.Generator().manual_seed(seed)
    texts = ["n1 up x2 :", "n1 down x3 : n0 ;", "n9 up x4 : n10 ; n11 ;"]
    prompts = [prompt for prompt in policy.codec.contexts(texts) for _ in range(G)]
    lengths = torch.randint(1, LONGEST - 1, (len(prompts),), generator=generator).tolist()
    completions = [torch.randint(2, 38, (length,), generator=generator).tolist() for length in lengths]
    rewards = torch.rand(3, G, generator=generator)
    rewards[1] = 0.5
    return prompts, completions, rewards


def padded(rows: list[Tensor], width: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["no-reference", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_of_random_ragged_batches_equal_those_of_trl(loss: PolicyLoss, beta: float) -> None:
    clip, clip_high = clips(loss, None, None)
    trainer = trl_trainer(loss, clip=clip, clip_high=clip_high, beta=beta)
    clipped = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.double)

        lengths_B = torch.randint(1, LONGEST + 1, (2 * G,), generator=generator)
        mask_BT = torch.arange(LONGEST) < lengths_B[:, None]
        # Within a token's ratio of e^{+-2}, so that every clip is reached; a policy's log-probabilities are below 0.
        old_BT = -normal(2 * G, LONGEST).abs() - 1
        given_BT = torch.where(mask_BT, old_BT + normal(2 * G, LONGEST), 0.0)
        old_BT = torch.where(mask_BT, old_BT, 0.0)
        reference_BT = torch.where(mask_BT, old_BT + normal(2 * G, LONGEST) / 2, 0.0)
        advantages_B = normal(2 * G)

        theirs_BT = given_BT.clone().requires_grad_()
        inputs = trl_inputs([[2]] * 2 * G, [[2] * LONGEST] * 2 * G, advantages_B)
        inputs |= {"completion_mask": mask_BT.long(), "num_items_in_batch": mask_BT.sum()}
        inputs |= {"old_per_token_logps": old_BT, "ref_per_token_logps": reference_BT}
        trainer._get_per_token_logps_and_entropies = lambda *_, of=theirs_BT, **__: (of, torch.zeros_like(of), None)
        wanted = trainer._compute_loss(None, inputs)
        wanted.backward()

        ours_BT = given_BT.clone().requires_grad_()
        values_BT = losses.token_losses(
            loss, ours_BT, old_BT, advantages_B[:, None], mask_BT, clip=clip, clip_high=clip_high
        )
        if beta:
            # TRL corrects the penalty by the loss's own weight, which for gspo is the rollout's; ours by the token's.
            weights_BT = losses.weights(loss, ours_BT, old_BT, mask_BT)
            pull_BT = weights_BT * k3(ours_BT, reference_BT)
            if loss != "gspo":
                assert torch.equal(pull_BT, penalty("k3_times_ratio", ours_BT, old_BT, reference_BT))
            values_BT = values_BT + beta * pull_BT
        found = losses.share(loss, values_BT, mask_BT, Whole(2 * G, int(mask_BT.sum()), LONGEST))
        found.backward()
        assert theirs_BT.grad is not None
        assert ours_BT.grad is not None
        assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
        assert relative(ours_BT.grad, theirs_BT.grad) <= 1e-9
        weights_BT = losses.weights(loss, given_BT, old_BT, mask_BT)
        clipped += int(
            losses.out_of_range(weights_BT, advantages_B[:, None], clip=clip, clip_high=clip_high)[mask_BT].sum()
        )
    assert clipped > 5


@pytest.mark.parametrize("shared", [True, False], ids=["shared-prefixes", "row-by-row"])
@pytest.mark.parametrize("off_policy", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_network_in_micro_batches_equals_that_of_trl_in_one(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, loss: PolicyLoss, off_policy: bool, shared: bool
) -> None:
    monkeypatch.setitem(scoring.TOKENS, "cpu", 40)
    monkeypatch.setitem(sharing_module.TOKENS, "cpu", (40, 40))
    beta = 0.0 if loss == "gspo" else 0.3
    prompts, completions, rewards = rollouts(policy, seed=5)
    advantages_B = group_advantages(rewards).flatten()
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 20)
    sharing = Sharing(wanted=shared)
    rows = sharing.logps(other.network, prompts, completions, temperature=1.0, device=CPU)
    clip, clip_high = clips(loss, None, None)
    network = copy.deepcopy(policy.network)
    trainer = trl_trainer(loss, clip=clip, clip_high=clip_high, beta=beta, model=network)
    width = max(map(len, completions))
    inputs = trl_inputs(prompts, completions, advantages_B) | {"ref_per_token_logps": padded(rows, width)}
    if off_policy:
        inputs["old_per_token_logps"] = padded(rows, width)
    wanted = trainer._compute_loss(network, inputs)
    wanted.backward()

    # Without a reference a group without spread has no gradient, and is left out of the batch though not of its size.
    kept = [i for i in range(len(prompts)) if beta or not G <= i < 2 * G]
    batch = Batch(
        [prompts[i] for i in kept],
        [completions[i] for i in kept],
        advantages_B[kept],
        Whole(len(prompts), sum(map(len, completions)), LONGEST),
        old=[rows[i] for i in kept] if off_policy else None,
        reference=[rows[i] for i in kept] if beta else None,
    )
    policy.network.zero_grad()
    found = add_gradient(policy.network, batch, work=SrlWork(loss=loss), beta=beta, device=CPU, sharing=sharing)
    assert sharing.reasons == ([] if shared else [SWITCHED_OFF])
    assert found[Metric.LOSS] == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    assert (found[Metric.CLIPPED] > 0) == (off_policy and loss != "cispo")
    gradients = dict(network.named_parameters())
    for name, parameter in policy.network.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, gradients[name].grad) <= 1e-5, name


@pytest.mark.parametrize("shared", [False, True], ids=["row by row", "shared"])
def test_the_gradient_of_dpo_in_micro_batches_equals_that_of_trl_in_one(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    from accelerate import Accelerator
    from trl import DPOTrainer
    from trl.trainer.grpo_trainer import add_fused_lm_head

    monkeypatch.setitem(scoring.TOKENS, "cpu", 60)
    prompts, completions, _ = rollouts(policy, seed=9)
    chosen, refused = completions[: len(prompts) // 2], completions[len(prompts) // 2 :]
    prompts = prompts[: len(chosen)]
    reference = -torch.rand(2, len(prompts), generator=torch.Generator().manual_seed(0)) * 30
    network = copy.deepcopy(policy.network)
    add_fused_lm_head(network, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    trainer: Any = object.__new__(DPOTrainer)
    trainer.model, trainer.beta, trainer.loss_types, trainer.loss_weights = network, 0.3, ["sigmoid"], [1.0]
    trainer.accelerator, trainer._metrics = Accelerator(cpu=True), {"train": defaultdict(list)}
    trainer.precompute_ref_logps, trainer.f_divergence_type, trainer.ld_alpha = True, "reverse_kl", None
    trainer.aux_loss_enabled = trainer.use_weighting = False
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    rows = [p + c for side in (chosen, refused) for p, c in zip(prompts, side, strict=True)]
    width = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        "completion_mask": torch.tensor(
            [
                [0] * len(p) + [1] * (len(row) - len(p)) + [0] * (width - len(row))
                for p, row in zip(prompts * 2, rows, strict=True)
            ]
        ),
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
    }
    wanted = trainer._compute_loss(network, inputs, return_outputs=False)
    wanted.backward()
    policy.network.zero_grad()
    batch = dpo.Batch(prompts, chosen, refused, reference_chosen_N=reference[0], reference_refused_N=reference[1])
    sharing = Sharing(wanted=shared)
    found = dpo.add_gradient(policy, batch, beta=0.3, temperature=1.0, sharing=sharing)
    assert sharing.reasons == ([] if shared else [SWITCHED_OFF])
    assert found[Metric.LOSS] == pytest.approx(wanted.item(), rel=1e-5)
    gradients = dict(network.named_parameters())
    for name, parameter in policy.network.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, gradients[name].grad) <= 1e-5, name
