"""Batched sampling with a key-value cache: what prompts share is prefilled once, rollouts of a prompt that have drawn
the same tokens so far are computed as one, finished rows leave the batch.

Legend: P prompts, B rows, R rows still running, N nodes at which they stand, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from stepforge.errors import Diverged, InvalidInput
from stepforge_jobs.prefixes.decode import branch, branches
from stepforge_jobs.prefixes.prefill import prefill
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.ranks import ranks
from stepforge_jobs.training.scoring import precision

ROWS = 512
"""Most rows that are sampled at once."""
COLDEST = torch.finfo(torch.float32).tiny
"""Below this a temperature is 0 in the numbers that are divided by it."""


def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    count: int = 1,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stops: Collection[int],
    after_batch: Callable[[int], None] | None = None,
    share_prefixes: bool = True,
) -> list[list[int]]:
    """`count` completions of each prompt, prompt by prompt, each up to and with its stop token.

    `temperature` 0 is greedy. A completion without a stop at its end ran out of tokens. Deterministic for equal
    arguments, on any number of ranks: every token of every completion has a random number of its own, which does not
    depend on what is sampled beside it. Beginnings that prompts or completions share are computed once, where that is
    exact and pays; `share_prefixes` switches it off. Tokens are the same either way, but for draws that fall on
    rounding. Raises InvalidInput for a prompt that leaves no room.
    """
    completions: list[list[int]] = []
    was_training = policy.network.training
    policy.network.eval()
    per_batch = max(1, ROWS // count)
    for batch, start in enumerate(range(0, len(prompts), per_batch)):
        part = prompts[start : start + per_batch]
        generator = torch.Generator().manual_seed(seed_of(seed, batch))
        draws_PNT = torch.rand(len(part), count, max_new_tokens, generator=generator, dtype=torch.float64)
        own = ranks().own(len(part))
        rows: list[list[int]] = []
        if part[own]:
            draws_BT = draws_PNT[own].flatten(0, 1).to(policy.device)
            with precision(policy.device):
                rows = _sample_batch(
                    policy,
                    part[own],
                    count,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    draws_BT=draws_BT,
                    stops=sorted(stops),
                    share=share_prefixes,
                )
        completions += ranks().gather(rows)
        if after_batch is not None:
            after_batch(min(start + per_batch, len(prompts)))
    policy.network.train(was_training)
    return completions


def seed_of(*parts: int) -> int:
    """A seed for these numbers. Of 32 bits, because torch's generator on CPU drops the upper half of a longer one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


@torch.inference_mode()
def _sample_batch(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    max_new_tokens: int,
    temperature: float,
    draws_BT: Tensor,
    stops: list[int],
    share: bool,
) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    if longest >= policy.context:
        raise InvalidInput(f"a prompt of {longest} tokens leaves no room in the model's context of {policy.context}")
    network = policy.network
    logits_NV, cache, mask_NL, places = prefill(network, prompts, pad=policy.codec.pad, share=share)
    node_R = torch.tensor(places, device=policy.device).repeat_interleave(count)
    position_N = mask_NL.sum(1)
    nodes = branches(network, cache, mask_NL, rows=len(node_R), share=share)
    row_R = torch.arange(len(node_R), device=policy.device)
    stops_S = torch.tensor(stops, device=policy.device)
    tokens = torch.full((len(row_R), max_new_tokens), -1, dtype=torch.long, device=policy.device)
    for index in range(max_new_tokens):
        next_R = choose(logits_NV[node_R], temperature, draws_BT[row_R, index])
        tokens[row_R, index] = next_R
        running_R = ~torch.isin(next_R, stops_S) & (position_N[node_R] + 1 < policy.context)
        row_R, node_R, next_R = (x[running_R] for x in (row_R, node_R, next_R))
        if len(row_R) == 0 or index == max_new_tokens - 1:
            break
        parents_N, next_N, node_R = branch(node_R, next_R, count=len(position_N), share=share)
        if parents_N is not None:
            nodes.select(parents_N)
            position_N = position_N[parents_N]
        logits_NV = nodes.step(network, next_N, position_N.clamp(max=policy.context - 1))
        position_N = position_N + 1
    return [[token for token in row if token >= 0] for row in tokens.tolist()]


def choose(logits_BV: Tensor, temperature: float, draws_B: Tensor) -> Tensor:
    """The next token of each row, B: the likeliest at temperature 0, otherwise that of a draw, uniform in [0, 1).

    Raises Diverged where the logits of a row make no distribution.
    """
    if not torch.isfinite(logits_BV.amax(-1)).all():
        raise Diverged(
            "the network's logits are inf or nan, so no token can be sampled: its weights have left the numbers. Train "
            "with a lower learning_rate, or start from another model"
        )
    if temperature < COLDEST:
        return logits_BV.argmax(-1)
    # The largest becomes 0 first: divided by a tiny temperature it would be infinite, and no number any more.
    logits_BV = logits_BV.float()
    probabilities_BV = torch.softmax((logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature, -1)
    # In double precision: in single, the last of 100,000 tokens would be lost in the rounding of the sum before them.
    cumulative_BV = probabilities_BV.double().cumsum(-1)
    wanted_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, wanted_B1, right=True)[:, 0]
