"""Log-probabilities, gradients and the exact KL over shared prefixes against each row computed by itself."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.prefixes import CPU, Words, gradients, model, nested_prompts, ragged, relative, sampled, worst
from torch import Tensor

from stepforge.contracts.work import Lora
from stepforge_jobs.prefixes import network as packed
from stepforge_jobs.prefixes.attention import NAME, attention, plan_of
from stepforge_jobs.prefixes.network import log_probabilities, rows_of
from stepforge_jobs.prefixes.packing import in_tree_order, pack
from stepforge_jobs.prefixes.reasons import why_not
from stepforge_jobs.training import distance
from stepforge_jobs.training import sharing as sharing_module
from stepforge_jobs.training.models import Policy, with_lora
from stepforge_jobs.training.sharing import GRADIENT, TORN, Sharing, most_tokens


# RMSNorm computes in float32 whatever it is given; GPT-NeoX has none of it.
@pytest.mark.parametrize(
    ("kind", "dtype", "batches", "most"),
    [
        ("llama", torch.float32, 100, 1e-5),
        ("llama", torch.float64, 100, 1e-6),
        ("neox", torch.float64, 100, 1e-11),
        ("neox", torch.float32, 15, 1e-5),
        ("qwen2", torch.float32, 15, 1e-5),
        ("qwen3", torch.float32, 15, 1e-5),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_over_ragged_batches_gradients_are_those_of_rows_by_themselves(
    kind: str, dtype: torch.dtype, batches: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model(kind).to(dtype)
    for seed in range(batches):
        monkeypatch.setitem(sharing_module.TOKENS, "cpu", (30, 30) if seed % 3 == 0 else (1_024, 1_024))
        assert worst(network, ragged(seed, (3, 23)[seed % 2])) <= most, seed
    assert network.config._attn_implementation == NAME


def test_scores_are_scaled_as_the_network_says() -> None:
    network = model().double()
    for layer in network.model.layers:
        layer.self_attn.scaling = 0.9
    assert worst(network, ragged(3)) <= 1e-6
    alone = sampled(network, nested_prompts(), share_prefixes=False)
    assert sampled(network, nested_prompts()) == alone


@pytest.mark.parametrize(
    "given",
    [{"dropout": 0.1}, {"softcap": 50.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}],
    ids=lambda given: next(iter(given)),
)
def test_attention_over_a_plan_refuses_what_it_does_not_know(given: dict[str, Any]) -> None:
    tree = pack([[3, 4]], [[5, 6]], [0])
    states = [torch.zeros(1, 4, len(tree.tokens), 8)] * 3
    with pytest.raises(ValueError, match="knows neither"):
        attention(torch.nn.Identity(), *states, None, prefix_plan=plan_of(tree), **given)


def test_a_row_that_is_seen_where_it_may_not_be_would_be_found() -> None:
    network = model()
    assert why_not(network) is None
    rows = [[3, 4, 5], [3, 4, 6], [3, 4, 6, 7]], [[8, 9], [9, 8], [10, 11, 12]]
    tree = pack(*rows, in_tree_order(*rows))
    right = rows_of(log_probabilities(network, tree, temperature=1.0, precision=lambda _: nullcontext()))
    tree.ends = [min(len(tree.tokens), end + 1) for end in tree.ends]
    wrong = rows_of(log_probabilities(network, tree, temperature=1.0, precision=lambda _: nullcontext()))
    assert max(float((a - b).detach().abs().max()) for a, b in zip(right, wrong, strict=True)) > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_adapters_and_checkpointing_change_nothing(checkpointing: bool) -> None:
    nothing: Any = None
    adapted = with_lora(Policy(model("qwen3"), nothing, 256), Lora(r=3, dropout=0.0), seed=0).network
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(0))
    adapted.double()
    if checkpointing:
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        adapted.enable_input_require_grads()
    adapted.train()
    for seed in range(6):
        assert worst(adapted, ragged(seed)) <= 1e-6
    with adapted.disable_adapter():
        base = Sharing(wanted=True).logps(adapted, *ragged(1), temperature=1.0, device=CPU)
    plain = Sharing(wanted=False).logps(model("qwen3").double(), *ragged(1), temperature=1.0, device=CPU)
    assert relative(torch.cat(base), torch.cat(plain)) <= 1e-5


def test_checkpointing_of_all_weights_changes_nothing() -> None:
    network = model()
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert max(worst(network, ragged(seed)) for seed in range(6)) <= 1e-5


def test_in_mixed_precision_gradients_are_as_near_as_those_of_rows_by_themselves() -> None:
    network, rows = model(), ragged(5)
    _, exact = gradients(network, rows, share=False)
    far = []
    for share in (True, False):
        _, found = gradients(network, rows, share=share, precision=torch.autocast("cpu", dtype=torch.bfloat16))
        far.append(max(relative(found[name], exact[name]) for name in exact))
    assert far[0] <= max(0.05, 1.5 * far[1])


def test_a_large_vocabulary_is_scored_in_chunks_with_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ragged(7)
    network = model()
    _, wanted = gradients(network, rows, share=True)
    asked: list[int] = []
    network.lm_head.register_forward_hook(lambda _module, _given, out: asked.append(out.shape[-2]))
    monkeypatch.setitem(packed.LOGITS, "cpu", 23 * 4)
    _, found = gradients(network, rows, share=True)
    assert max(asked) <= 4
    assert max(relative(found[name], wanted[name]) for name in wanted) <= 1e-6


def test_log_probabilities_and_entropies_are_those_of_the_network_itself() -> None:
    network, rows = model().double(), ragged(11)
    for part in Sharing(wanted=True).parts(network, *rows, temperature=0.7, device=CPU):
        for row, logps_T, entropy_T, mask_T in zip(
            part.rows, part.logps_BT, part.entropy_BT, part.mask_BT, strict=True
        ):
            prompt, completion = rows[0][row], rows[1][row]
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / 0.7
            wanted = torch.distributions.Categorical(logits=logits)
            assert torch.allclose(logps_T[mask_T], wanted.log_prob(torch.tensor(completion)), atol=1e-10)
            assert torch.allclose(entropy_T[mask_T], wanted.entropy(), atol=1e-10)


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("at_once", [1 << 22, 23 * 5], ids=["at once", "in chunks"])
def test_the_exact_kl_and_its_gradient_are_those_of_rows_by_themselves(
    monkeypatch: pytest.MonkeyPatch, adapters: bool, at_once: int
) -> None:
    monkeypatch.setitem(packed.LOGITS, "cpu", at_once)
    words: Any = Words()
    start = Policy(model().double(), words, 256)
    policy = with_lora(start, Lora(r=2, dropout=0.0) if adapters else None, seed=0)
    reference = policy if adapters else replace(start, network=copy.deepcopy(start.network))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    found = {}
    for way in ("_over_packs", "_row_by_row"):
        taken: list[int] = []
        original = getattr(distance, way)
        if way == "_row_by_row":
            monkeypatch.setattr(distance, "reason_of", lambda network: "so")
        monkeypatch.setattr(distance, way, lambda *g, o=original, t=taken: t.append(1) or o(*g))
        policy.network.zero_grad(set_to_none=True)
        measured = [distance.kl_of(policy, reference, *ragged(seed), weight=0.3) for seed in range(4)]
        assert len(taken) == 4
        assert measured[0].total == pytest.approx(distance.kl_of(policy, reference, *ragged(0)).total)
        grads = {n: p.grad.clone() for n, p in policy.network.named_parameters() if p.grad is not None}
        found[way] = [m.total for m in measured], grads
    (ours, gradients_), (theirs, wanted) = found.values()
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert min(theirs) > 0.01
    assert gradients_.keys() == wanted.keys() != set()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    assert max(relative(gradients_[n], w) for n, w in wanted.items() if float(w.norm()) > 1e-6 * largest) < 1e-5


def test_sides_of_a_pair_that_do_not_fit_in_one_pack_go_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (prompts, completions) = model(), ragged(2)
    count = len(prompts) // 2
    sides = completions[:count], completions[count : 2 * count]
    found = {}
    for most in (4_096, 2):
        monkeypatch.setattr(sharing_module, "most_tokens", lambda *_, most=most: most)
        sharing = Sharing(wanted=True)
        parts = list(sharing.pairs(network, prompts[:count], sides, temperature=1.0, device=CPU))
        assert sorted(number for numbers, _, _ in parts for number in numbers) == list(range(count))
        found[most] = {n: (a, b) for numbers, *both in parts for n, a, b in zip(numbers, *both, strict=True)}
        assert sharing.reasons == ([] if most > 2 else [sharing_module.TORN])
    for number, sums in found[2].items():
        assert torch.allclose(torch.stack(sums), torch.stack(found[4_096][number]), rtol=1e-4)


@pytest.mark.parametrize("most", [2, 4_096], ids=["torn", "whole"])
def test_a_stage_does_not_say_that_its_gradient_was_shared_where_all_its_pairs_were_torn(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    network, (prompts, completions) = model(), ragged(2)
    count = len(prompts) // 2
    sides = completions[:count], completions[count : 2 * count]
    monkeypatch.setattr(sharing_module, "most_tokens", lambda *_: most)
    sharing, whole = Sharing(wanted=True), "tokens that rollouts share are computed once in sampling, the gradient"
    list(sharing.pairs(network, prompts[:count], sides, temperature=1.0, device=CPU))
    alone = f"sampling alone reads what prompts share once, as far as that is exact; else row by row: {TORN}"
    assert sharing.choice("sampling", GRADIENT) == (alone if most == 2 else whole)
    sharing.logps(network, prompts[:count], sides[0], temperature=1.0, device=CPU)
    torn = f"tokens that rollouts share are computed once in sampling; but the gradient row by row: {TORN}"
    assert sharing.choice("sampling", GRADIENT) == (torn if most == 2 else whole)
    monkeypatch.setattr(sharing_module, "most_tokens", lambda *_: 4_096)
    list(sharing.pairs(network, prompts[:count], sides, temperature=1.0, device=CPU))
    some = f"{whole}; but row by row: {TORN}"
    assert sharing.choice("sampling", GRADIENT) == (some if most == 2 else whole), "of the batches that fitted"


def test_in_chunks_entropies_are_those_of_all_places_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = model().double(), ragged(7)
    found: list[list[Tensor]] = []
    for at_once in (1 << 22, 23 * 4):
        monkeypatch.setitem(packed.LOGITS, "cpu", at_once)
        parts = Sharing(wanted=True).parts(network, *rows, temperature=0.7, device=CPU)
        found.append([part.entropy_BT[part.mask_BT].detach() for part in parts])
    assert torch.allclose(torch.cat(found[0]), torch.cat(found[1]), atol=1e-10)


def test_in_mixed_precision_attention_over_a_plan_is_of_the_kind_that_it_is_of_without_one() -> None:
    tree = pack([[3, 4]], [[5, 6]], [0])
    states = [torch.randn(1, 4, len(tree.tokens), 8) for _ in range(3)]
    module = torch.nn.Identity()
    for enabled, kind in ((True, torch.bfloat16), (False, torch.float32)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            plain, _ = attention(module, *states, None, is_causal=True)
            found, _ = attention(module, *states, None, prefix_plan=plan_of(tree))
        assert plain.dtype == found.dtype == kind
        assert torch.allclose(plain, found, atol=0.03 if enabled else 1e-6)


def test_the_reference_has_its_own_head_where_adapters_are_on_the_head_too() -> None:
    from peft import LoraConfig, get_peft_model

    words: Any = Words()
    adapters = LoraConfig(r=2, lora_dropout=0.0, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    policy = Policy(get_peft_model(model().double(), adapters), words, 256)
    with torch.no_grad():
        for name, parameter in policy.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(0))
    rows = ragged(3)
    logps = []
    for heading in (nullcontext(), policy.network.disable_adapter()):
        with torch.no_grad(), heading:
            own = [
                policy.network(input_ids=torch.tensor([p + c])).logits[0, len(p) - 1 : -1]
                for p, c in zip(*rows, strict=True)
            ]
        logps.append(torch.cat(own).log_softmax(-1))
    wanted = float((logps[0].exp() * (logps[0] - logps[1])).sum())
    assert wanted > 0.01
    assert distance.kl_of(policy, policy, *rows).total == pytest.approx(wanted, rel=1e-5)


def test_a_pack_has_fewer_tokens_the_more_each_keeps_for_backward_within_bounds() -> None:
    from transformers import LlamaConfig

    def most(device: str, **shape: int) -> int:
        return most_tokens(SimpleNamespace(config=LlamaConfig(**shape)), torch.device(device))

    low, high = sharing_module.TOKENS["cpu"]
    shape = {"hidden_size": 384, "intermediate_size": 1_024}
    some = most("cpu", num_hidden_layers=12, **shape)
    assert low < some < high
    assert most("cpu", num_hidden_layers=13, **shape) == pytest.approx(some * 12 / 13, abs=1)
    assert most("cpu", num_hidden_layers=12, hidden_size=384, intermediate_size=1_280) < some
    assert most("cpu", num_hidden_layers=1, **shape) == high
    assert most("cpu", num_hidden_layers=32, hidden_size=4_096, intermediate_size=11_008) == low
    assert most("cuda", num_hidden_layers=32, hidden_size=4_096, intermediate_size=11_008) == 16_384
