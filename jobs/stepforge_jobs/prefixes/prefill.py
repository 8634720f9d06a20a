"""What a sampler starts with: the keys and values of its prompts, each token computed once, and room to grow.

Legend: P distinct prompts, B rows that are sampled, L tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepforge_jobs.prefixes.network import base_of, inputs_of
from stepforge_jobs.prefixes.packing import Pack, in_tree_order, pack
from stepforge_jobs.prefixes.reasons import reason_of

ROOM = 64
"""Tokens by which a full cache grows: one that grows by a token copies itself for every token."""
PAYS = 0.8
"""Prompts are packed where that leaves less than this share of the tokens that they have when padded."""


def roomy_cache(config: Any) -> Any:
    """transformers' cache, whose plain layers have room."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=config)
    cache.layers = [_roomy_layer()() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _roomy_layer() -> Any:
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """`keys` and `values` are beginnings of longer tensors, `rooms`."""

        rooms: tuple[Tensor, Tensor] | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.keys, self.values = key_states, value_states
                self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
                return self.keys, self.values
            assert self.keys is not None
            assert self.values is not None
            length, new = self.keys.shape[2], key_states.shape[2]
            # Rows that were chosen, and the first tokens, have memory of their own, without room.
            roomy = self.rooms is not None and self.rooms[0].data_ptr() == self.keys.data_ptr()
            if self.rooms is None or not roomy or self.rooms[0].shape[2] < length + new:
                self.rooms = _larger(self.keys, new + ROOM), _larger(self.values, new + ROOM)
            for room, states in zip(self.rooms, (key_states, value_states), strict=True):
                room[:, :, length : length + new] = states
            self.keys, self.values = (room[:, :, : length + new] for room in self.rooms)
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            if not self.is_initialized:
                return
            assert self.keys is not None
            assert self.values is not None
            length = self.keys.shape[2]
            if self.rooms is None or self.rooms[0].data_ptr() != self.keys.data_ptr():
                self.keys, self.values = self.keys[indices], self.values[indices]
                return
            # With the room: rows that branch at every token would else be copied twice.
            self.rooms = self.rooms[0].index_select(0, indices), self.rooms[1].index_select(0, indices)
            self.keys, self.values = (room[:, :, :length] for room in self.rooms)

    return RoomyLayer


def _larger(cached: Tensor, more: int) -> Tensor:
    room = cached.new_empty((*cached.shape[:2], cached.shape[2] + more, cached.shape[3]))
    room[:, :, : cached.shape[2]] = cached
    return room


def prefill(
    network: Any, prompts: Sequence[Sequence[int]], *, pad: int, share: bool
) -> tuple[Tensor, Any, Tensor, list[int]]:
    """Logits after each distinct prompt (PV), a cache and a mask of them (PL, prompts at its end), and for each prompt
    that was given its place among the distinct ones."""
    places: dict[tuple[int, ...], int] = {}
    given = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    distinct = list(places)
    longest = max(map(len, distinct))
    base = base_of(network)
    device = next(base.parameters()).device
    mask_PL = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in distinct], device=device)
    cache = roomy_cache(network.config)
    tree = _tree(network, distinct, longest) if share else None
    if tree is not None:
        return _packed(base, tree, cache, mask_PL), cache, mask_PL, given
    ids_PL = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in distinct], device=device)
    positions_PL = (mask_PL.cumsum(1) - 1).clamp(min=0)
    out = network(
        input_ids=ids_PL,
        attention_mask=mask_PL,
        position_ids=positions_PL,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1], cache, mask_PL, given


def _tree(network: Any, prompts: Sequence[Sequence[int]], longest: int) -> Pack | None:
    """The prompts packed, where that is exact and pays."""
    # A completion of one token has no input of its own: what is left is the tree of the prompts.
    ends = [[0]] * len(prompts)
    order = in_tree_order(prompts, ends)
    tree = pack(prompts, ends, order)
    pays = len(tree.tokens) < PAYS * longest * len(prompts)
    return tree if pays and reason_of(network) is None else None


def _packed(base: Any, tree: Pack, cache: Any, mask_PL: Tensor) -> Tensor:
    """Fill the cache and return the logits, PV."""
    device = mask_PL.device
    plan, given = inputs_of(tree, device)
    hidden_1TH = base.get_decoder()(**given, past_key_values=cache, use_cache=True).last_hidden_state
    if not plan.used:
        raise RuntimeError(f"the layers of {type(base).__name__} have not passed the plan on to their attention")
    lasts = {row: sources[0] for row, sources in zip(tree.rows, tree.sources, strict=True)}
    parents = tree.parents
    longest = mask_PL.shape[1]
    nodes: list[list[int]] = []
    for row in range(len(lasts)):
        path: list[int] = []
        node = lasts[row]
        while node >= 0:
            path.append(node)
            node = parents[node]
        nodes.append([0] * (longest - len(path)) + path[::-1])
    nodes_PL = torch.tensor(nodes, device=device)
    for layer in cache.layers:
        # 1HTD to PHLD.
        layer.keys, layer.values = (x[0][:, nodes_PL].transpose(0, 1).contiguous() for x in (layer.keys, layer.values))
    last_P = torch.tensor([lasts[row] for row in range(len(lasts))], device=device)
    logits: Tensor = base.get_output_embeddings()(hidden_1TH[0, last_P])
    return logits
