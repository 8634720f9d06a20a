"""Our GRPO against TRL's GRPOTrainer on the same rollouts: loss, gradients, with and without a reference."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.job_folders import TINY

from stepforge.contracts.jobs import SrlWork
from stepforge.contracts.metrics import Metric
from stepforge_jobs.main import OFFLINE
from stepforge_jobs.rl.advantages import clipped_loss, group_advantages, sequence_mean
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.grpo import add_gradient
from stepforge_jobs.training.models import Policy, from_scratch, save
from stepforge_jobs.training.scoring import score

G = 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    torch.set_num_threads(1)
    made = from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)
    save(made, tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture(scope="module")
def rollouts(policy: Policy) -> tuple[list[list[int]], list[list[int]], torch.Tensor]:
    """Prompts and completions of different lengths, and rewards; one group has no spread."""
    generator = torch.Generator().manual_seed(0)
    texts = ["n1 up x2 :", "n1 down x3 : n0 ;", "n9 up x4 : n10 ; n11 ;"]
    prompts = [prompt for prompt in policy.codec.contexts(texts) for _ in range(G)]
    lengths = torch.randint(1, 7, (len(prompts),), generator=generator).tolist()
    completions = [torch.randint(2, 38, (length,), generator=generator).tolist() for length in lengths]
    rewards = torch.rand(3, G, generator=generator)
    rewards[1] = 0.5
    return prompts, completions, rewards


def trainer(policy: Policy, folder: Path, beta: float) -> Any:
    os.environ.update(OFFLINE)
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    save(policy, folder / "model")
    network = copy.deepcopy(policy.network)
    network.config._name_or_path = str(folder / "model")
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        per_device_train_batch_size=3 * G,
        num_generations=G,
        loss_type="grpo",
        beta=beta,
        epsilon=0.2,
        disable_tqdm=True,
    )
    made = GRPOTrainer(
        model=network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "n1 up x2 :"}] * 3),
        processing_class=policy.codec.tokenizer,
    )
    # `train` sets it; the loss divides by it.
    made.current_gradient_accumulation_steps = 1
    return made


def trl_inputs(prompts: list[list[int]], completions: list[list[int]], advantages: torch.Tensor) -> dict[str, Any]:
    """Prompts padded on the left and completions on the right, as TRL has them."""
    wide, deep = max(map(len, prompts)), max(map(len, completions))
    return {
        "prompt_ids": torch.tensor([[0] * (wide - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [0] * (deep - len(c)) for c in completions]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (deep - len(c)) for c in completions]),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["no-reference", "reference"])
def test_loss_and_gradients_equal_those_of_trl(
    policy: Policy, rollouts: tuple[list[list[int]], list[list[int]], torch.Tensor], tmp_path: Path, beta: float
) -> None:
    prompts, completions, rewards = rollouts
    advantages = group_advantages(rewards).flatten()
    theirs = trainer(policy, tmp_path, beta)
    inputs = trl_inputs(prompts, completions, advantages)
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in reference.network.parameters():
            parameter.add_(0.05)
    if beta:
        scored = score(reference.network, prompts, completions, device=CPU)
        width = max(map(len, completions))
        rows = [scored.logps()[i][scored.mask_BT[i]] for i in range(len(prompts))]
        inputs["ref_per_token_logps"] = torch.stack(
            [torch.nn.functional.pad(r.detach(), (0, width - len(r))) for r in rows]
        )
    theirs.model.zero_grad()
    loss = theirs._compute_loss(theirs.model, inputs)
    loss.backward()
    wanted = {name: parameter.grad for name, parameter in theirs.model.named_parameters()}

    policy.network.zero_grad()
    kept = [i for i in range(len(prompts)) if beta or not G <= i < 2 * G]
    values = add_gradient(
        policy.network,
        [prompts[i] for i in kept],
        [completions[i] for i in kept],
        advantages[kept],
        rollouts=len(prompts),
        work=SrlWork(beta=beta, clip=0.2),
        device=CPU,
        reference=reference if beta else None,
    )
    assert values[Metric.LOSS] == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in policy.network.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, wanted[name], atol=2e-6, rtol=1e-4), name
    if beta:
        assert values[Metric.KL_K3] > 0


def test_the_clipped_loss_off_policy_equals_that_of_trl(
    policy: Policy, rollouts: tuple[list[list[int]], list[list[int]], torch.Tensor], tmp_path: Path
) -> None:
    _, completions, rewards = rollouts
    prompts = rollouts[0]
    advantages = group_advantages(rewards).flatten()
    theirs = trainer(policy, tmp_path, 0.0)
    inputs = trl_inputs(prompts, completions, advantages)
    width = max(map(len, completions))
    old = torch.zeros(len(prompts), width)
    scored = score(policy.network, prompts, completions, device=CPU)
    ours_old = torch.zeros_like(scored.logps())
    generator = torch.Generator().manual_seed(5)
    for i, completion in enumerate(completions):
        shifted = scored.logps()[i][scored.mask_BT[i]].detach() + torch.randn(len(completion), generator=generator) / 2
        old[i, : len(completion)] = shifted
        ours_old[i][scored.mask_BT[i]] = shifted
    wanted = theirs._compute_loss(theirs.model, {**inputs, "old_per_token_logps": old})
    loss = sequence_mean(clipped_loss(scored.logps(), ours_old, advantages, clip=0.2), scored.mask_BT).mean()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
