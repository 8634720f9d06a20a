"""Attention over a pack on a GPU: FlexAttention with one block mask a pack, at lengths of few sizes.

Not run on a GPU by the tests, which have none: they hold the block mask to the tree and the eager forward to the plan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""FlexAttention's sparse block, in tokens."""
STEPS = 8
"""A bucket is at most this share longer than what it holds: compiled kernels serve again at equal lengths."""


def bucket(length: int) -> int:
    """The length that a pack is padded to: whole blocks, in steps of an eighth of its size.

    >>> [bucket(n) for n in (1, 128, 129, 1_000, 1_100, 9_000)]
    [128, 128, 256, 1024, 1152, 9216]
    """
    blocks = -(-length // BLOCK)
    step = 1 << max(0, blocks.bit_length() - STEPS.bit_length())
    return BLOCK * step * -(-blocks // step)


def block_mask(ends_T: Tensor) -> Any:
    """Of query i and key j: j <= i < ends[j]. Built of each block's least and largest end, never of all pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_T[key])

    count = len(ends_T) // BLOCK
    ends_KB = ends_T.view(count, BLOCK)
    number = torch.arange(count, device=ends_T.device)
    first_Q1, last_Q1 = number[:, None] * BLOCK, number[:, None] * BLOCK + BLOCK - 1
    before_QK = number[None, :] < number[:, None]
    whole_QK = before_QK & (ends_KB.amin(1)[None, :] > last_Q1)
    some_QK = (before_QK & (ends_KB.amax(1)[None, :] > first_Q1)) | (number[None, :] == number[:, None])
    lists = [_listed(some_QK & ~whole_QK), _listed(whole_QK)]
    return BlockMask.from_kv_blocks(
        *lists[0], *lists[1], BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(len(ends_T), len(ends_T))
    )


def _listed(which_QK: Tensor) -> tuple[Tensor, Tensor]:
    """For each row how many blocks it has, and their numbers first; both with axes for batch and heads."""
    order = which_QK.int().argsort(dim=1, descending=True, stable=True)
    return which_QK.sum(1, dtype=torch.int32)[None, None], order.int()[None, None].contiguous()


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(query: Tensor, key: Tensor, value: Tensor, mask: Any, *, scale: float | None) -> Tensor:
    """1HTD each, fewer key heads allowed; the result 1THD. Compiled on a GPU, eager elsewhere."""
    from torch.nn.attention.flex_attention import flex_attention

    run = _compiled() if query.is_cuda else flex_attention
    # Autocast leaves rotary positions in float32 and values in bfloat16.
    found: Tensor = run(
        query.to(value.dtype), key.to(value.dtype), value, block_mask=mask, scale=scale, enable_gqa=True
    )
    return found.transpose(1, 2)
