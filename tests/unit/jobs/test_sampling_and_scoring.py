"""Sampling and log-probabilities against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.support.job_folders import TINY

from stepforge.contracts.work import Lora
from stepforge.errors import IntegrityError, InvalidInput
from stepforge_jobs.directories import check_directory
from stepforge_jobs.evaluation.sampling import choose, sample, seed_of
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.loop import learning_rate
from stepforge_jobs.training.models import Policy, from_directory, from_scratch, save, with_lora
from stepforge_jobs.training.scoring import micro_batches, score
from stepforge_jobs.training.stage import draw

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=0)


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[list[int]]:
    texts = [f"n{i} up x2 : " + "n1 ; " * (i % 4) for i in range(12)]
    return policy.codec.contexts(texts)


def test_greedy_completions_are_those_of_transformers(policy: Policy, prompts: list[list[int]]) -> None:
    policy.network.eval()
    stops = sorted(policy.codec.stops)
    ours = sample(policy, prompts, max_new_tokens=9, temperature=0, seed=0, stops=stops)
    for prompt, completion in zip(prompts, ours, strict=True):
        whole = policy.network.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=stops, pad_token_id=0
        )
        assert completion == whole[0, len(prompt) :].tolist()


def test_sampled_tokens_have_the_models_probabilities(policy: Policy, prompts: list[list[int]]) -> None:
    drawn = sample(policy, prompts[:1], count=8_000, max_new_tokens=1, temperature=0.7, seed=3, stops=[1])
    with torch.no_grad():
        logits = policy.network(input_ids=torch.tensor([prompts[0]])).logits[0, -1]
    wanted = torch.softmax(logits / 0.7, -1)
    found = torch.bincount(torch.tensor(drawn).flatten(), minlength=len(wanted)) / 8_000
    assert (found - wanted).abs().max() < 0.02


def test_a_token_without_probability_is_not_drawn_by_the_least_draw_nor_at_a_bound() -> None:
    nothing = -float("inf")
    logits = torch.tensor([[nothing, 0.0, nothing, 0.0]]).expand(4, -1)
    draws = torch.tensor([0.0, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, 1.0, draws).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 5e-324], ids=str)
def test_towards_temperature_0_sampling_becomes_greedy(
    policy: Policy, prompts: list[list[int]], temperature: float
) -> None:
    drawn = sample(policy, prompts, max_new_tokens=4, temperature=temperature, seed=0, stops=[1])
    assert drawn == sample(policy, prompts, max_new_tokens=4, temperature=0, seed=0, stops=[1])


def test_equal_seeds_give_equal_samples_and_every_completion_stops_once(
    policy: Policy, prompts: list[list[int]]
) -> None:
    def draw_all(seed: int) -> list[list[int]]:
        return sample(policy, prompts, count=5, max_new_tokens=14, temperature=1, seed=seed, stops=policy.codec.stops)

    first = draw_all(1)
    assert first == draw_all(1) != draw_all(2)
    assert len(first) == 60
    for completion in first:
        stopped = [token in policy.codec.stops for token in completion]
        assert not any(stopped[:-1])
        assert stopped[-1] or len(completion) == 14


def test_a_completion_never_leaves_the_models_context(policy: Policy) -> None:
    (prompt,) = policy.codec.contexts(["n1 ; " * 14])
    (completion,) = sample(policy, [prompt], max_new_tokens=50, temperature=1, seed=0, stops=[policy.codec.pad])
    assert len(prompt) + len(completion) <= TINY.context
    with pytest.raises(InvalidInput, match="a prompt of 32 tokens leaves no room"):
        sample(policy, [[5] * 32], max_new_tokens=1, temperature=1, seed=0, stops=[1])


def test_log_probabilities_do_not_depend_on_the_rows_beside_them(policy: Policy, prompts: list[list[int]]) -> None:
    completions = [[7 + i, 9, 1][: 1 + i % 3] for i in range(len(prompts))]
    scored = score(policy.network, prompts, completions, device=CPU)
    logps = scored.logps()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        with torch.no_grad():
            whole = policy.network(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        wanted = [whole[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]
        assert logps[row][scored.mask_BT[row]].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_supervised_loss_and_gradient_are_those_of_transformers(policy: Policy, prompts: list[list[int]]) -> None:
    targets = [[5, 6, 1][i % 2 :] for i in range(len(prompts))]
    width = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    rows = [p + t + [0] * (width - len(p) - len(t)) for p, t in zip(prompts, targets, strict=True)]
    labels = [[-100] * len(p) + t + [-100] * (width - len(p) - len(t)) for p, t in zip(prompts, targets, strict=True)]
    policy.network.zero_grad()
    reference = policy.network(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss
    reference.backward()
    wanted = [parameter.grad.clone() for parameter in policy.network.parameters()]
    policy.network.zero_grad()
    loss = -score(policy.network, prompts, targets, device=CPU).logps().sum() / sum(map(len, targets))
    loss.backward()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-6)
    for parameter, gradient in zip(policy.network.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    policy.network.zero_grad()


def test_micro_batches_cover_every_row_once_and_stay_within_the_memory() -> None:
    lengths = [10, 400, 400, 2_000, 3, 3, 3, 1_600]
    parts = list(micro_batches(lengths, 100, device=CPU))
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= 1_024 for part in parts)
    assert len(list(micro_batches([100] * 64, 128_000, device=torch.device("cuda")))) == 13


def test_a_model_survives_being_saved_and_read_by_transformers_alone(policy: Policy, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save(policy, tmp_path)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("n3 up x2 :", return_tensors="pt", return_token_type_ids=False)
    ours = sample(
        policy, prompt["input_ids"].tolist(), max_new_tokens=8, temperature=0, seed=0, stops=[policy.codec.eos]
    )
    theirs = network.generate(**prompt, max_new_tokens=8, do_sample=False)[0, 4:].tolist()
    assert theirs == ours[0]
    again = from_directory(tmp_path, step_end=";")
    for old, new in zip(policy.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_tiny_model_starts_with_a_spread_of_one_over_the_root_of_its_inputs(policy: Policy) -> None:
    for name, parameter in policy.network.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(parameter.shape[1] ** -0.5, rel=0.1), name


def test_adapters_train_alone_and_are_merged_into_what_is_saved(tmp_path: Path) -> None:
    base = from_scratch(TINY, CountingDomain.vocabulary, step_end=";", seed=1)
    before = base.network.model.layers[0].mlp.up_proj.weight.clone()
    adapted = with_lora(base, Lora(r=2, alpha=4, dropout=0.0), seed=0)
    trained = {name for name, parameter in adapted.network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    (wanted,) = sample(adapted, [[5, 6]], max_new_tokens=8, temperature=0, seed=0, stops=[1])
    save(adapted, tmp_path)
    again = from_directory(tmp_path, step_end=";")
    assert not torch.equal(again.network.model.layers[0].mlp.up_proj.weight, before)
    assert sample(again, [[5, 6]], max_new_tokens=8, temperature=0, seed=0, stops=[1]) == [wanted]


def test_a_directory_that_is_no_model_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(
        InvalidInput, match=r"missing \*\.safetensors, tokenizer\.json; it holds config\.json\. Models are never"
    ):
        check_directory(tmp_path)
    with pytest.raises(InvalidInput, match=r"it holds nothing"):
        check_directory(tmp_path / "absent")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "sub/state.pkl"])
def test_a_pickle_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(IntegrityError, match="which can run code when read: only safetensors are loaded"):
        check_directory(tmp_path)


def test_the_order_of_data_is_shuffled_passes_and_a_pure_function_of_the_step() -> None:
    items = list(range(10))
    drawn = [item for step in range(5) for item in draw(items, step, 4, seed=7)]
    assert drawn == [item for step in range(10) for item in draw(items, step, 2, seed=7)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == items
    assert drawn[:10] != drawn[10:]
    assert draw(items, 3, 25, seed=7) != draw(items, 3, 25, seed=8)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    from stepforge.contracts.work import SftWork

    work = SftWork(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(work, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == pytest.approx(0.919)
    assert rates[99] == pytest.approx(0.109)


def test_seeds_differ_in_the_32_bits_that_torch_reads() -> None:
    seeds = {seed_of(seed, step, stream) for seed in range(5) for step in range(300) for stream in range(3)}
    assert len(seeds) == 4_500
    assert max(seeds) < 2**32
    # The trap itself: two long seeds that differ in their upper half alone draw the same numbers.
    long, longer = (torch.rand(3, generator=torch.Generator().manual_seed(7 + (k << 32))) for k in (1, 2))
    assert torch.equal(long, longer)
