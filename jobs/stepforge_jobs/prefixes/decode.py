"""What grows while rows are sampled: keys and values, of which those of a prompt may stand once for all its rollouts.

Two ways to the same tokens, but for rounding. Copies: each row has its prompt's keys and its own in one cache, as
transformers has it. OneCopy, on a CPU: a row's cache holds its own tokens; its prompt's keys are read once for all its
rollouts, and the two parts of attention are put together by their log-sum-exp.

Legend: P distinct prompts of at most L tokens, B rows that run, G slots for rows of a prompt, H heads, D units of one.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stepforge_jobs.prefixes.network import base_of
from stepforge_jobs.prefixes.prefill import roomy_cache
from stepforge_jobs.prefixes.reasons import reason_of

logger = getLogger(__name__)
KEEP = 0.75
"""Nodes whose rows have finished are dropped when fewer than this share are left: dropping copies the cache."""
APART = 0.75
"""Where so many rows stand at nodes of their own, all do: each further branch would copy the cache."""
FROM = 32
"""Tokens of the longest prompt from which one copy is a gain; below, two calls cost more than they save."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class ChangedKeys(ValueError):
    """A layer makes something of its cached keys or values before it attends to them."""


class Branches(Protocol):
    """What goes on from prompts, a batch of nodes: B of them, each for one row or for several that are alike so far."""

    def select(self, chosen: Tensor) -> None:
        """Go on with these alone, one of them as often as it is named."""

    def step(self, network: Any, next_B: Tensor, position_B: Tensor) -> Tensor:
        """Logits after one more token of each row, BV."""


def branches(network: Any, cache: Any, mask_PL: Tensor, *, rows: int, share: bool) -> Branches:
    """The distinct prompts of a prefilled cache, of which so many rows are to come."""
    several = rows >= 2 * len(mask_PL)
    plain = all(type(layer).__name__ == "RoomyLayer" for layer in cache.layers)
    pays = several and mask_PL.shape[1] >= FROM and mask_PL.device.type == "cpu" and plain
    if share and pays and reason_of(network) is None and _stands_once(network, cache, mask_PL):
        return OneCopy(network, cache, mask_PL)
    return Copies(cache, mask_PL)


_STANDS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _stands_once(network: Any, cache: Any, mask_PL: Tensor) -> bool:
    """Whether the layers attend to what the cache holds: a step of each prompt when a network first samples."""
    base = base_of(network)
    if base not in _STANDS:
        position_P = mask_PL.sum(1)
        try:
            OneCopy(network, cache, mask_PL).step(network, torch.zeros_like(position_P), position_P)
            _STANDS[base] = True
        except ChangedKeys as error:
            logger.info("each rollout gets a copy of its prompt's keys: %s", error)
            _STANDS[base] = False
    return _STANDS[base]


def branch(node_R: Tensor, next_R: Tensor, *, count: int, share: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """What is computed next, where R rows stand at `count` nodes and each has drawn a token.

    Rows of one node that drew the same token stay together. Returns the node before each new one, or None where all
    stay at their places; the token of each; and the node at which each row stands then.
    """
    keys_R = (node_R << 32) + next_R
    apart_R = torch.arange(len(keys_R), device=keys_R.device)
    keys_N, node_R = keys_R.unique(return_inverse=True) if share else (keys_R, apart_R)
    if len(keys_N) > APART * len(keys_R):
        keys_N, node_R = keys_R, apart_R
    parents_N, next_N = keys_N >> 32, keys_N & 0xFFFFFFFF
    if len(keys_N) < KEEP * count or len(parents_N.unique()) < len(parents_N):
        return parents_N, next_N, node_R
    all_next_N = next_N.new_zeros(count)
    all_next_N[parents_N] = next_N
    return None, all_next_N, parents_N[node_R]


class Copies:
    def __init__(self, cache: Any, mask_PL: Tensor) -> None:
        self._cache, self._mask_BT = cache, mask_PL

    def select(self, chosen: Tensor) -> None:
        self._cache.batch_select_indices(chosen)
        self._mask_BT = self._mask_BT[chosen]

    def step(self, network: Any, next_B: Tensor, position_B: Tensor) -> Tensor:
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(self._mask_BT[:, :1])], 1)
        out = network(
            input_ids=next_B[:, None],
            attention_mask=self._mask_BT,
            position_ids=position_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


class OneCopy:
    """Is the plan of its own attention (`attend`), which `prefixes.attention` finds among a layer's arguments."""

    def __init__(self, network: Any, cache: Any, mask_PL: Tensor) -> None:
        self._prompts: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in cache.layers]
        self._cache = roomy_cache(network.config)
        self._mask_PL = mask_PL
        self._place(torch.arange(len(mask_PL)))

    def select(self, chosen: Tensor) -> None:
        left, prompt_B = self._prompt_B[chosen].unique(return_inverse=True)
        if len(left) < len(self._mask_PL):
            self._mask_PL = self._mask_PL[left]
            self._prompts = [(keys[left], values[left]) for keys, values in self._prompts]
        self._cache.batch_select_indices(chosen)
        self._place(prompt_B)

    def _place(self, prompt_B: Tensor) -> None:
        """Give each row a slot beside the other rows of its prompt; slots without a row repeat some row."""
        self._prompt_B = prompt_B
        count, rows = len(self._mask_PL), torch.arange(len(prompt_B))
        order = prompt_B.argsort(stable=True)
        sizes_P = prompt_B.bincount(minlength=count)
        self._slots = int(sizes_P.max())
        first_P = sizes_P.cumsum(0) - sizes_P
        number_B = rows - first_P[prompt_B[order]]
        self._slot_B = torch.empty_like(rows)
        self._slot_B[order] = prompt_B[order] * self._slots + number_B
        self._row_of = torch.zeros(count * self._slots, dtype=torch.long)
        self._row_of[self._slot_B] = rows
        dtype = self._prompts[0][0].dtype
        hidden_PL = torch.zeros(self._mask_PL.shape, dtype=dtype).masked_fill(self._mask_PL == 0, -torch.inf)
        self._hidden_P11L = hidden_PL[:, None, None] if bool((self._mask_PL == 0).any()) else None

    def step(self, network: Any, next_B: Tensor, position_B: Tensor) -> Tensor:
        out = network(
            input_ids=next_B[:, None],
            # Of four axes, so that no mask is made of it.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            position_ids=position_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
            prefix_plan=self,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Of one new token of each row: BH1D, over its own tokens' keys and values and its prompt's; B1HD."""
        kept = self._cache.layers[layer] if layer < len(self._cache.layers) else None
        if kept is None or not all(_same(one, other) for one, other in ((key, kept.keys), (value, kept.values))):
            raise ChangedKeys(f"layer {layer} attends to other keys or values than its cache holds")
        (rows, heads, _, width), shared = query.shape, key.shape[1]
        q = query.reshape(rows, shared, heads // shared, width)
        own, own_lse = _flash(q, key, value, 0.0, False, scale=scale)
        keys, values = self._prompts[layer]
        slots = q[self._row_of].view(len(keys), self._slots, *q.shape[1:]).transpose(1, 2).flatten(2, 3)
        above, above_lse = _flash(slots, keys, values, 0.0, False, attn_mask=self._hidden_P11L, scale=scale)
        above = self._by_row(above.unflatten(2, (self._slots, -1)))
        above_lse = self._by_row(above_lse.unflatten(2, (self._slots, -1)))
        weight = torch.sigmoid(above_lse - own_lse)[..., None].to(own.dtype)
        return torch.lerp(own, above, weight).reshape(rows, 1, heads, -1)

    def _by_row(self, by_slot: Tensor) -> Tensor:
        """P, heads, G and more to B, heads and more."""
        return by_slot.transpose(1, 2).flatten(0, 1)[self._slot_B]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()
