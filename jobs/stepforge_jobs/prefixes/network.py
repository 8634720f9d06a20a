"""Log-probabilities of completions through packs: one ordinary forward pass of a Hugging Face causal LM each.

Legend: B rows of a pack, T tokens of its longest completion, S nodes that something follows, H hidden units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stepforge_jobs.prefixes.attention import Plan, plan_of
from stepforge_jobs.prefixes.packing import Pack

LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Most logits that exist at once."""


@dataclass(frozen=True)
class Found:
    """Of one pack's rows, each from its first column on; 0 after its end."""

    rows: list[int]
    logps_BT: Tensor
    entropy_BT: Tensor
    """In nats, of the distribution that each token is from; no gradient."""
    mask_BT: Tensor


def base_of(network: Any) -> Any:
    """The causal LM itself, where adapters are around its layers."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def log_probabilities(
    network: Any,
    pack: Pack,
    *,
    temperature: float,
    precision: Callable[[torch.device], AbstractContextManager[Any]],
) -> Found:
    """Log-probability and entropy of each completion's tokens. Raises RuntimeError where attention was not ours."""
    base = base_of(network)
    device = next(base.parameters()).device
    sources, _ = sources_of(pack)
    place = {node: number for number, node in enumerate(sources)}
    follows = [place[node] for nodes in pack.sources for node in nodes]
    targets = [token for row in pack.targets for token in row]
    hidden_SH = read(network, pack, sources, precision)
    with precision(device):
        logps, entropy = head(
            base.get_output_embeddings(),
            hidden_SH,
            torch.tensor(follows, device=device),
            torch.tensor(targets, device=device),
            temperature=temperature,
            vocabulary=base.config.vocab_size,
        )
    lengths_B = torch.tensor([len(row) for row in pack.targets], device=device)
    mask_BT = torch.arange(int(lengths_B.max()), device=device) < lengths_B[:, None]
    laid: list[Tensor] = []
    for values in (logps, entropy):
        laid.append(values.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values))
    return Found(rows=pack.rows, logps_BT=laid[0], entropy_BT=laid[1], mask_BT=mask_BT)


def sources_of(pack: Pack) -> tuple[list[int], list[int]]:
    """Nodes that some completion's token follows, in their order, and how many completions go through each."""
    uses = Counter(node for nodes in pack.sources for node in nodes)
    sources = sorted(uses)
    return sources, [uses[node] for node in sources]


def read(
    network: Any, pack: Pack, sources: Sequence[int], precision: Callable[[torch.device], AbstractContextManager[Any]]
) -> Tensor:
    """Hidden states of these nodes, SH. Raises RuntimeError where attention was not ours."""
    base = base_of(network)
    device = next(base.parameters()).device
    plan, given = inputs_of(pack, device)
    with precision(device):
        hidden_1TH = base.get_decoder()(**given, use_cache=False).last_hidden_state
    if not plan.used:
        raise RuntimeError(f"the layers of {type(base).__name__} have not passed the plan on to their attention")
    hidden_SH: Tensor = hidden_1TH[0, torch.tensor(sources, device=device)]
    return hidden_SH


def in_chunks(some: Callable[..., Tensor], hidden_SH: Tensor, *others: Tensor, vocabulary: int) -> list[Tensor]:
    """`some` of so many of S at a time as LOGITS allows; where they are several, each is made again in backward."""
    size = max(1, LOGITS.get(hidden_SH.device.type, LOGITS["cuda"]) // vocabulary)
    given = [[x[start : start + size] for x in (hidden_SH, *others)] for start in range(0, len(hidden_SH), size)]
    if len(given) == 1:
        return [some(*given[0])]
    return [checkpoint(some, *one, use_reentrant=False) for one in given]


def inputs_of(pack: Pack, device: torch.device) -> tuple[Plan, dict[str, Any]]:
    """The plan of a pack's attention, and what the network is called with."""
    tokens, positions = pack.tokens, pack.positions
    if device.type == "cpu":
        plan = plan_of(pack)
    else:
        from stepforge_jobs.prefixes.flex import block_mask, bucket

        more = bucket(len(tokens)) - len(tokens)
        # Padding sees itself alone, and nothing sees it.
        ends = [*pack.ends, *range(len(tokens) + 1, len(tokens) + more + 1)]
        tokens, positions = [*tokens, *[0] * more], [*positions, *[0] * more]
        plan = Plan(runs=[], stems=[], block_mask=block_mask(torch.tensor(ends, device=device)))
    given = {
        "input_ids": torch.tensor([tokens], device=device),
        "position_ids": torch.tensor([positions], device=device),
        # One of four axes is handed on as it is; without one a causal mask would be made, and positions taken for
        # several sequences in a row.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "prefix_plan": plan,
    }
    return plan, given


def head(
    output: Any, hidden_SH: Tensor, follows_N: Tensor, targets_N: Tensor, *, temperature: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of N targets, each after the source `follows_N`, and the entropy there; rows of `follows_N` rise
    within a completion alone.

    Logits are made of so many sources at a time as LOGITS allows; in backward they are made again.
    """

    def some(hidden_sH: Tensor, follows_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        logits_sV = output(hidden_sH)
        logits_sV = logits_sV.to(torch.promote_types(logits_sV.dtype, torch.float32)) / temperature
        total_s = logits_sV.logsumexp(-1)
        with torch.no_grad():
            shifted_sV = logits_sV - total_s[:, None]
            entropy_s = -(shifted_sV.exp() * shifted_sV).sum(-1)
        return logits_sV[follows_n, targets_n] - total_s[follows_n], entropy_s[follows_n]

    at_once = max(1, LOGITS.get(hidden_SH.device.type, LOGITS["cuda"]) // vocabulary)
    if len(hidden_SH) <= at_once:
        return some(hidden_SH, follows_N, targets_N)
    order_N = follows_N.argsort(stable=True)
    logps, entropies = [], []
    for start, inside_n in _chunks(follows_N[order_N], at_once, len(hidden_SH)):
        chosen_n = order_N[inside_n]
        given = hidden_SH[start : start + at_once], follows_N[chosen_n] - start, targets_N[chosen_n]
        logps_n, entropy_n = checkpoint(some, *given, use_reentrant=False)
        logps.append(logps_n)
        entropies.append(entropy_n)
    back_N = order_N.argsort()
    return torch.cat(logps)[back_N], torch.cat(entropies)[back_N]


def _chunks(sorted_N: Tensor, size: int, count: int) -> Iterator[tuple[int, slice]]:
    """Start of each chunk of sources, and the part of sorted ones that lies in it."""
    bounds = torch.searchsorted(sorted_N, torch.arange(0, count + size, size, device=sorted_N.device)).tolist()
    for number in range(-(-count // size)):
        yield number * size, slice(bounds[number], bounds[number + 1])


def rows_of(found: Found) -> Sequence[Tensor]:
    """Log-probabilities of each row's own tokens."""
    return [logps_T[mask_T] for logps_T, mask_T in zip(found.logps_BT, found.mask_BT, strict=True)]
