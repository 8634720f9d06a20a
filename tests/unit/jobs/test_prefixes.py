"""Shared prefixes: packs, masks, log-probabilities and gradients against each row computed by itself."""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stepforge.contracts.work import Lora, RlvrWork, SrlWork
from stepforge_jobs.prefixes import network as packed
from stepforge_jobs.prefixes.attention import NAME, attention, plan_of
from stepforge_jobs.prefixes.flex import BLOCK, block_mask, bucket, flex
from stepforge_jobs.prefixes.network import log_probabilities, rows_of
from stepforge_jobs.prefixes.packing import Pack, common, in_tree_order, own_rows, pack, packs
from stepforge_jobs.prefixes.reasons import dropout_of, why_not
from stepforge_jobs.training import sharing as sharing_module
from stepforge_jobs.training.models import Policy, with_lora
from stepforge_jobs.training.sharing import EMPTY, SWITCHED_OFF, Sharing

CPU = torch.device("cpu")
Rows = tuple[list[list[int]], list[list[int]]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def model(kind: str = "llama", *, vocabulary: int = 23, **more: Any) -> Any:
    """Two layers with two key heads for four heads, and random weights that matter."""
    import transformers

    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    names = {
        "llama": "Llama",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "mistral": "Mistral",
        "mixtral": "Mixtral",
        "neox": "GPTNeoX",
        "nanochat": "NanoChat",
        "doge": "Doge",
        "diffllama": "DiffLlama",
    }
    name = names[kind]
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape | more)).train()


def ragged(seed: int, vocabulary: int = 23) -> Rows:
    """Nested prompts of up to three trajectories and up to 4 completions of each, in random order; with few words the
    completions begin alike, are equal, or go on where another ends."""
    source = random.Random(seed)

    def words(most: int) -> list[int]:
        return [source.randrange(vocabulary) for _ in range(source.randrange(1, most))]

    rows: list[tuple[list[int], list[int]]] = []
    for _ in range(source.randrange(1, 4)):
        seen = words(10)
        for _ in range(source.randrange(1, 4)):
            rows += [(list(seen), words(9)) for _ in range(source.randrange(1, 5))]
            seen = seen + words(6)
    source.shuffle(rows)
    return [p for p, _ in rows], [c for _, c in rows]


def path_to(tree: Pack, node: int) -> list[int]:
    parents, found = tree.parents, []
    while node >= 0:
        found.append(node)
        node = parents[node]
    return found[::-1]


def gradients(
    network: Any, rows: Rows, *, share: bool, precision: AbstractContextManager[Any] | None = None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Log-probabilities, and the gradient of their sum with random weights, part by part."""
    network.zero_grad(set_to_none=True)
    sharing = Sharing(wanted=share)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(len(c), generator=generator, dtype=torch.float64) for c in rows[1]]
    found: list[Tensor] = [torch.empty(0)] * len(rows[0])
    with precision or nullcontext():
        for part in sharing.parts(network, *rows, temperature=0.7, device=CPU):
            losses = []
            for row, logps_T, mask_T in zip(part.rows, part.logps_BT, part.mask_BT, strict=True):
                found[row] = logps_T[mask_T].detach()
                losses.append((logps_T[mask_T] * weights[row]).sum())
            torch.stack(losses).sum().backward()
    assert sharing.reasons == ([] if share else [SWITCHED_OFF])
    return found, {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def worst(network: Any, rows: Rows, **more: Any) -> float:
    """Largest relative difference of log-probabilities and of any parameter's gradient to those row by row."""
    logps, found = gradients(network, rows, share=True, **more)
    wanted_logps, wanted = gradients(network, rows, share=False)
    assert found.keys() == wanted.keys() != set()
    # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    real = [name for name in wanted if float(wanted[name].norm()) > 1e-6 * largest]
    return max(relative(torch.cat(logps), torch.cat(wanted_logps)), *(relative(found[n], wanted[n]) for n in real))


# ── Packs ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("vocabulary", [2, 23])
def test_in_a_pack_every_row_is_a_path_and_every_token_stands_once(vocabulary: int) -> None:
    for seed in range(60):
        prompts, completions = ragged(seed, vocabulary)
        tree = pack(prompts, completions, in_tree_order(prompts, completions))
        assert sorted(tree.rows) == list(range(len(prompts)))
        for row, sources, targets in zip(tree.rows, tree.sources, tree.targets, strict=True):
            path = path_to(tree, sources[-1])
            assert [tree.tokens[node] for node in path] == prompts[row] + completions[row][:-1]
            assert [tree.positions[node] for node in path] == list(range(len(path)))
            assert path[len(prompts[row]) - 1 :] == sources
            assert targets == completions[row]
        stems = {tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))}
        tails = {
            (tuple(p), tuple(c[: n + 1])) for p, c in zip(prompts, completions, strict=True) for n in range(len(c) - 1)
        }
        assert len(tree.tokens) == len(stems) + len(tails)


def test_a_query_may_see_a_key_exactly_where_the_key_is_its_ancestor() -> None:
    for seed in range(20):
        prompts, completions = ragged(seed, 3)
        tree = pack(prompts, completions, in_tree_order(prompts, completions))
        for query in range(len(tree.tokens)):
            seen = [key for key in range(len(tree.tokens)) if key <= query < tree.ends[key]]
            assert seen == path_to(tree, query)


def test_packs_keep_the_bound_and_split_a_prompt_whose_rows_do_not_fit() -> None:
    for seed in range(40):
        prompts, completions = ragged(seed, 23)
        rows = in_tree_order(prompts, completions)
        for most in (12, 30, 80):
            found = list(packs(prompts, completions, rows, most=most))
            assert [row for one in found for row in one.rows] == rows
            assert all(len(one.tokens) <= most or len(one.rows) == 1 for one in found)
        assert len(list(packs(prompts, completions, rows, most=10_000))) == 1
    many = [[2, 3, 4]] * 9, [[n, n, n] for n in range(5, 14)]
    assert [len(one.rows) for one in packs(*many, range(9), most=9)] == [3, 3, 3]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_take_every_row_once_and_about_as_many_tokens(world: int) -> None:
    for seed in range(30):
        prompts, completions = ragged(seed, 2)
        completions[0] = []
        parts = [own_rows(prompts, completions, rank=rank, world=world) for rank in range(world)]
        assert sorted(row for part in parts for row in part) == list(range(1, len(prompts)))
    even = [[n, 1, 2] for n in range(12)], [[5, 6]] * 12
    assert {len(own_rows(*even, rank=rank, world=world)) for rank in range(world)} == {12 // world}


def test_common_is_the_length_of_the_common_beginning() -> None:
    source = random.Random(0)
    for _ in range(300):
        one, other = ([source.randrange(2) for _ in range(source.randrange(9))] for _ in range(2))
        agreed = [a == b for a, b in zip(one, other, strict=False)]
        assert common(one, other) == (agreed.index(False) if False in agreed else len(agreed))


# ── Log-probabilities and gradients ──────────────────────────────────────────────────────────────


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


# ── Where it is not exact ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (partial(model, "mistral", sliding_window=16), r"slides over a window|kinds \['sliding_attention'\]"),
        (partial(model, "mixtral", output_router_logits=True, num_local_experts=2), "auxiliary loss of its router"),
        (partial(model, attn_implementation="eager"), "its attention is 'eager', and this needs 'sdpa'"),
        (
            partial(model, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "frequencies depend on the longest row",
        ),
        # Before training: scores and logits are so small that neither costs anything yet.
        (partial(model, "nanochat", initializer_range=0.02), "log-probabilities would differ"),
        (partial(model, "doge", initializer_range=0.02), "a mask of its own"),
    ],
    ids=["window", "router", "eager", "rope", "cap", "mask"],
)
def test_what_does_not_fit_is_told_and_computed_row_by_row(network: Any, reason: str) -> None:
    made, said = network(), []
    sharing = Sharing(wanted=True, say=said.append)
    rows = ragged(2)
    sharing.logps(made, *rows, temperature=1.0, device=CPU)
    logps = sharing.logps(made, *rows, temperature=1.0, device=CPU)
    plain = Sharing(wanted=False).logps(made, *rows, temperature=1.0, device=CPU)
    assert all(torch.equal(one, other) for one, other in zip(logps, plain, strict=True))
    (line,) = said
    assert line.startswith("prefixes are not shared: ")
    assert re.search(reason, line), line
    choice = sharing.choice("sampling", "the gradient")
    assert choice.endswith(f"else row by row: {sharing.reasons[0]}"), "nothing is said to be shared that was not"


def test_state_space_layers_and_images_are_told() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=23, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert "keep a state in place of attention" in str(why_not(mamba))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seeing = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": 40, **small},
        vision_config={"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **small},
        image_token_index=39,
    )
    assert "reads images" in str(why_not(LlavaForConditionalGeneration(seeing)))


def test_rotary_frequencies_of_each_kind_of_layer_and_attention_to_both_sides_are_told() -> None:
    moving = model()
    moving.config.rope_parameters = {"full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    assert "frequencies depend on the longest row" in str(why_not(moving))
    both = model(initializer_range=0.001)
    for layer in both.model.layers:
        layer.self_attn.is_causal = False
    assert "is not causal" in str(why_not(both))


def test_a_network_whose_logits_are_changed_after_its_head_is_found_by_the_check() -> None:
    network = model()
    network.register_forward_hook(lambda _module, _given, out: setattr(out, "logits", out.logits * 2) or out)
    assert "log-probabilities would differ by" in str(why_not(network))
    assert network.config._attn_implementation == "sdpa"


def test_dropout_goes_row_by_row_while_it_falls_and_is_shared_where_it_does_not() -> None:
    network, rows = model(attention_dropout=0.1), ragged(2)
    sharing = Sharing(wanted=True)
    list(sharing.parts(network, *rows, temperature=1.0, device=CPU))
    assert sharing.reasons == ["dropout 0.1 of config.attention_dropout falls on each row apart"]
    sharing.logps(network, *rows, temperature=1.0, device=CPU)
    assert sharing.choice("the reference").startswith("tokens that rollouts share are computed once in the reference; ")
    network.eval()
    assert dropout_of(network) is None
    jitter = model("mixtral", router_jitter_noise=0.1, num_local_experts=2, sliding_window=None)
    assert str(dropout_of(jitter)).startswith("dropout 0.1 of config.router_jitter_noise")
    nothing: Any = None
    adapted = with_lora(Policy(model(), nothing, 256), Lora(dropout=0.05), seed=0).network.train()
    assert dropout_of(adapted) == "dropout 0.05 of a layer falls on each row apart"


def test_completions_without_a_token_are_told() -> None:
    sharing = Sharing(wanted=True)
    for part in sharing.parts(model(), [[3, 4]], [[]], temperature=1.0, device=CPU):
        assert not part.mask_BT.any()
    assert sharing.reasons == [EMPTY]
    sharing = Sharing(wanted=True)
    assert not list(sharing.parts(model(), [], [], temperature=1.0, device=CPU))
    assert sharing.reasons == [], "a batch without a group that teaches is no exception"


def test_the_switch_is_recorded_and_its_default_leaves_identities_alone() -> None:
    assert "share_prefixes" not in SrlWork().model_dump_json()
    assert SrlWork(share_prefixes=False).model_dump()["share_prefixes"] is False
    assert RlvrWork.model_validate_json(RlvrWork(share_prefixes=False).model_dump_json()).share_prefixes is False
    assert Sharing(wanted=False).choice("the gradient") == "row by row: share_prefixes is false"


# ── The GPU's attention, as far as a CPU goes ────────────────────────────────────────────────────


def padded_ends(rows: Rows) -> tuple[Pack, list[int]]:
    tree = pack(*rows, in_tree_order(*rows))
    length = bucket(len(tree.tokens))
    return tree, [*tree.ends, *range(len(tree.tokens) + 1, length + 1)]


def long_rows(seed: int) -> Rows:
    prompts, completions = ragged(seed)
    return [[7] * 90 + p * 8 for p in prompts], [c * 9 for c in completions]


@pytest.mark.parametrize("seed", range(4))
def test_the_block_mask_is_the_tree(seed: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    _, ends = padded_ends(long_rows(seed))
    ends_T = torch.tensor(ends)
    mine = block_mask(ends_T)
    count = len(ends)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_T[key])

    theirs = create_block_mask(sees, None, None, count, count, device="cpu", BLOCK_SIZE=BLOCK)
    assert torch.equal(mine.to_dense(), theirs.to_dense())
    assert torch.equal(mine.full_kv_num_blocks, theirs.full_kv_num_blocks)
    assert count >= 2 * BLOCK


@torch.no_grad()
def test_flex_attention_gives_what_the_plan_gives() -> None:
    network, rows = model(), long_rows(1)
    assert why_not(network) is None
    tree, ends = padded_ends(rows)
    base, length = network.get_decoder(), len(tree.tokens)
    plan, given = packed.inputs_of(tree, CPU)
    wanted = base(**given, use_cache=False).last_hidden_state[0]
    assert plan.used == 2
    plan = plan_of(tree)
    plan.block_mask = block_mask(torch.tensor(ends))
    padding = [0] * (len(ends) - length)
    given |= {
        "input_ids": torch.tensor([tree.tokens + padding]),
        "position_ids": torch.tensor([tree.positions + padding]),
        "prefix_plan": plan,
    }
    found = base(**given, use_cache=False).last_hidden_state[0, :length]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.isfinite(
        flex(*[torch.randn(1, 2, len(ends), 16) for _ in range(3)], plan.block_mask, scale=None)
    ).all()


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_gives_what_the_eager_one_gives() -> None:
    from stepforge_jobs.prefixes.flex import _compiled

    _, ends = padded_ends(long_rows(1))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(ends), 16) for heads in (4, 2, 2))
    mask = block_mask(torch.tensor(ends))
    found = _compiled()(query, key, value, block_mask=mask, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(found, flex(query, key, value, mask, scale=None), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has a backward on a GPU alone")
def test_on_a_gpu_gradients_over_packs_are_those_of_rows_by_themselves() -> None:
    network, rows = model().cuda(), long_rows(1)
    found = {}
    for share in (True, False):
        network.zero_grad(set_to_none=True)
        sharing = Sharing(wanted=share)
        for part in sharing.parts(network, *rows, temperature=0.7, device=torch.device("cuda")):
            (part.logps_BT * part.mask_BT).sum().backward()
        assert sharing.reasons == ([] if share else [SWITCHED_OFF])
        found[share] = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    # bfloat16 under autocast, as jobs have it.
    assert relative(found[True], found[False]) < 0.05


def test_buckets_hold_what_they_are_for_with_little_to_spare() -> None:
    for length in range(1, 20_000, 37):
        found = bucket(length)
        assert found % BLOCK == 0
        assert length <= found <= max(length + BLOCK, length * 1.25)
    assert len({bucket(length) for length in range(1, 16_385)}) < 60


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("at_once", [1 << 22, 23 * 5], ids=["at once", "in chunks"])
def test_the_exact_kl_and_its_gradient_are_those_of_rows_by_themselves(
    monkeypatch: pytest.MonkeyPatch, adapters: bool, at_once: int
) -> None:
    from stepforge_jobs.training import distance

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


# ── Sampling ─────────────────────────────────────────────────────────────────────────────────────


class Words:
    """As much of a codec as sampling asks for."""

    pad, eos = 0, 1


def sampled(network: Any, prompts: Sequence[Sequence[int]], **more: Any) -> list[list[int]]:
    from stepforge_jobs.evaluation.sampling import sample

    words: Any = Words()
    given = {"count": 3, "max_new_tokens": 90, "temperature": 1.0, "seed": 5, "stops": {1}, **more}
    return sample(Policy(network, words, 256), prompts, **given)


def nested_prompts() -> list[list[int]]:
    source = random.Random(0)
    words = [source.randrange(3, 23) for _ in range(60)]
    return [words[:20], words[:45], words[:20], words, [4, *words[:7]], words[:45]]


def test_sampled_tokens_are_the_same_whether_prompts_are_shared_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepforge_jobs.prefixes import prefill

    network, taken = model("qwen3").double(), []
    packed_prefill = prefill._packed
    monkeypatch.setattr(prefill, "_packed", lambda *given: taken.append(len(given[1].tokens)) or packed_prefill(*given))
    for seed in range(5):
        alone = sampled(network, nested_prompts(), seed=seed, share_prefixes=False)
        assert taken == [] or seed
        assert sampled(network, nested_prompts(), seed=seed) == alone
        assert len(taken) == seed + 1
        assert len({tuple(row) for row in alone}) > 5
        assert max(map(len, alone)) > prefill.ROOM, "the cache has grown past its room"
    assert set(taken) == {60 + 8}, "each token of the prompts was read once"


def test_shared_prompts_sample_greedily_what_transformers_generates() -> None:
    network = copy.deepcopy(model()).eval()
    ours = sampled(network, nested_prompts(), count=2, temperature=0, max_new_tokens=12)
    for row, completion in enumerate(ours):
        prompt = torch.tensor([nested_prompts()[row // 2]])
        whole = network.generate(input_ids=prompt, max_new_tokens=12, do_sample=False, eos_token_id=[1], pad_token_id=0)
        assert completion == whole[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("start", [1, 1_000], ids=["one copy", "copies"])
def test_sampled_sequences_are_as_frequent_as_the_model_says(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    """All prompts in one batch, padded and packed; expected are products of a plain forward pass of each sequence."""
    from stepforge_jobs.evaluation import sampling
    from stepforge_jobs.prefixes import decode, prefill

    network, count = model(vocabulary=7), 6_000
    prompts = [[word % 5 + 2 for word in prompt] for prompt in nested_prompts()]
    taken: list[int] = []
    packed_prefill = prefill._packed
    monkeypatch.setattr(prefill, "_packed", lambda *given: taken.append(1) or packed_prefill(*given))
    monkeypatch.setattr(sampling, "ROWS", 1 << 20)
    monkeypatch.setattr(decode, "FROM", start)
    drawn = sampled(network, prompts, count=count, max_new_tokens=3, temperature=0.7)
    assert taken == [1]
    sequences = [[a, b, c] for a in range(7) for b in range(7) for c in range(7)]
    for place, prompt in enumerate(prompts):
        mine = drawn[place * count : (place + 1) * count]
        with torch.no_grad():
            ids = torch.tensor([prompt + sequence for sequence in sequences])
            logps = torch.log_softmax(network.eval()(input_ids=ids).logits[:, len(prompt) - 1 : -1] / 0.7, -1)
        chances = logps.gather(2, torch.tensor(sequences)[..., None])[..., 0].cumsum(1).exp()
        wanted = {tuple(s[: s.index(1) + 1] if 1 in s else s): 0.0 for s in sequences}
        wanted = {w: float(chances[sequences.index([*w, 0, 0][:3]), len(w) - 1]) for w in wanted}
        assert sum(wanted.values()) == pytest.approx(1.0, abs=1e-5)
        seen = Counter(map(tuple, mine))
        assert seen.keys() <= wanted.keys()
        # Pearson's statistic over sequences that are expected five times or more, and the others as one.
        often = [w for w in wanted if wanted[w] * count >= 5]
        rest = count - sum(seen[w] for w in often), count * (1 - sum(wanted[w] for w in often))
        pairs = [(seen[w], wanted[w] * count) for w in often] + ([rest] if rest[1] >= 5 else [])
        freedom = len(pairs) - 1
        assert freedom > 10
        assert sum((a - b) ** 2 / b for a, b in pairs) < freedom + 5 * (2 * freedom) ** 0.5


def test_prompts_stand_once_while_their_rows_are_sampled_and_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepforge_jobs.prefixes import decode

    for kind in ("llama", "qwen3", "neox"):
        network = model(kind).double()
        sizes: list[tuple[int, int]] = []
        attend = decode.OneCopy.attend

        def seen(self: Any, *given: Any, sizes: list[Any] = sizes, attend: Any = attend) -> Tensor:
            sizes.append((len(self._prompts[0][0]), len(given[1])))
            return attend(self, *given)

        monkeypatch.setattr(decode.OneCopy, "attend", seen)
        alone = sampled(network, nested_prompts(), count=5, stops={1, 2, 3, 4}, share_prefixes=False)
        assert not sizes
        assert sampled(network, nested_prompts(), count=5, stops={1, 2, 3, 4}) == alone
        assert sizes[0][0] == 4, "of six prompts four are distinct"
        assert sizes[-1][0] < 4, "a prompt whose rows have finished is dropped"
        assert len({rows for _, rows in sizes}) > 3, "and rows are, as they finish"
        monkeypatch.setattr(decode.OneCopy, "attend", attend)


def test_a_network_that_cannot_share_samples_from_copies_of_its_prompts() -> None:
    network = model(attn_implementation="eager")
    assert sampled(network, nested_prompts()) == sampled(network, nested_prompts(), share_prefixes=False)


def test_layers_that_make_something_of_cached_values_sample_from_copies(caplog: pytest.LogCaptureFixture) -> None:
    network = model("diffllama").double()
    caplog.set_level("INFO", "stepforge_jobs.prefixes.decode")
    alone = sampled(network, nested_prompts(), share_prefixes=False)
    assert sampled(network, nested_prompts()) == alone
    assert sampled(network, nested_prompts()) == alone
    (line,) = caplog.messages
    assert "layer 0 attends to other keys or values than its cache holds" in line


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


@pytest.mark.parametrize("start", [1, 1_000], ids=["one copy", "copies"])
def test_rollouts_are_computed_as_one_until_they_draw_another_token(
    monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    from stepforge_jobs.prefixes import decode

    monkeypatch.setattr(decode, "FROM", start)
    network = model().double()
    sampled(network, nested_prompts()[:3])  # A network's first time takes a step more, to see how it attends.
    steps: list[int] = []
    for kind in (decode.OneCopy, decode.Copies):
        step = kind.step
        monkeypatch.setattr(kind, "step", lambda *given, step=step: steps.append(len(given[2])) or step(*given))
    prompts = nested_prompts()[:3]
    for temperature, seed in ((0.2, 0), (0.2, 1), (0.6, 2), (3.0, 3)):
        given = {"count": 20, "temperature": temperature, "seed": seed, "max_new_tokens": 40}
        alone = sampled(network, prompts, **given, share_prefixes=False)
        assert steps[0] == sum(row[0] != 1 for row in alone), "each row by itself"
        steps.clear()
        assert sampled(network, prompts, **given) == alone
        if temperature < 0.5:
            beginnings = {(tuple(prompts[row // 20]), alone[row][0]) for row in range(60) if alone[row][0] != 1}
            assert steps[0] == len(beginnings) < 20, "of equal beginnings one is computed"
            assert sum(steps) < 0.7 * sum(map(len, alone))
        assert max(steps) <= 60
        steps.clear()


def test_branches_keep_every_row_with_its_own_token_and_parent() -> None:
    from stepforge_jobs.prefixes.decode import branch

    source = torch.Generator().manual_seed(0)
    for count, rows, words in ((5, 40, 3), (40, 40, 3), (7, 30, 1), (30, 28, 200_000), (3, 1, 9)):
        node_R = torch.randint(count, (rows,), generator=source) if rows != 28 else torch.arange(28)
        next_R = torch.randint(words, (rows,), generator=source)
        for share in (True, False):
            parents_N, next_N, new_R = branch(node_R, next_R, count=count, share=share)
            assert torch.equal(next_N[new_R], next_R)
            parents_N = torch.arange(count) if parents_N is None else parents_N
            assert torch.equal(parents_N[new_R], node_R)
            assert len(parents_N) <= max(rows, count)
