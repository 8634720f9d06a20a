"""Sampling from shared prompts and shared beginnings of rollouts against each row sampled by itself."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from tests.support.prefixes import model, nested_prompts, sampled
from torch import Tensor


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


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_completions_fill_the_models_context_and_no_more(kind: str) -> None:
    """GPT-2 has a weight for each position: one beyond the context is no position. Rows of the long prompt finish while
    the others, too many for theirs to be dropped, go on."""
    network = model(kind, max_position_embeddings=48)
    prompts = [[3 + n, *range(3, 12)] for n in range(5)] + [[*range(3, 23), *range(3, 23)]]
    for share in (True, False):
        found = sampled(network, prompts, count=2, context=48, stops={99}, share_prefixes=share)
        assert [len(row) for row in found] == [48 - len(prompt) for prompt in prompts for _ in range(2)]


def test_a_cache_with_room_holds_what_that_of_transformers_holds_whatever_is_done_to_it() -> None:
    from transformers import DynamicCache

    from stepforge_jobs.prefixes.prefill import roomy_cache

    config = model().config
    caches = roomy_cache(config), DynamicCache(config=config)
    source = torch.Generator().manual_seed(0)
    changes: list[tuple[str, Any]] = [
        ("batch_select_indices", torch.tensor([2, 0, 2])),
        ("reorder_cache", torch.tensor([1, 2, 0])),
        ("batch_repeat_interleave", 2),
        ("crop", -1),
        ("batch_select_indices", torch.tensor([5, 1])),
    ]
    rows = 3
    for change, given in changes:
        for new in (3, 1, 1):
            states = torch.randn(2, rows, 2, new, 8, generator=source)
            (key, value), wanted = (cache.update(*states, 0) for cache in caches)
            assert torch.equal(key, wanted[0])
            assert torch.equal(value, wanted[1])
        for cache in caches:
            getattr(cache, change)(given)
        rows = len(caches[1].layers[0].keys)
