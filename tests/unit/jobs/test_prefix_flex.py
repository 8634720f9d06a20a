"""The GPU's attention over shared prefixes, as far as a CPU goes."""

from __future__ import annotations

import pytest
import torch
from tests.support.prefixes import CPU, Rows, model, ragged, relative
from torch import Tensor

from stepforge_jobs.prefixes import network as packed
from stepforge_jobs.prefixes.attention import plan_of
from stepforge_jobs.prefixes.flex import BLOCK, block_mask, bucket, flex
from stepforge_jobs.prefixes.packing import Pack, in_tree_order, pack
from stepforge_jobs.prefixes.reasons import why_not
from stepforge_jobs.training.sharing import SWITCHED_OFF, Sharing


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
