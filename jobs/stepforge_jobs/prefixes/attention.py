"""Attention over a pack on a CPU: one call for each stem and one for all runs of like length, without a mask.

A token sees its own run (a stem or a completion) causally, and each stem above it whole. In depth-first order all that
see a stem whole come right after it, so both are slices. The parts are put together by their log-sum-exp, as in flash
attention (arXiv 2205.14135); backward gives each part the log-sum-exp and the output of the whole. So no key or value
is copied for each rollout, and no matrix of all pairs is made. Exact: a sum in another order.

It stands in transformers' registry under NAME and does what `sdpa` does wherever it is given no plan.

Legend: T nodes, H heads, D units of a head; N runs of at most C nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stepforge_jobs.prefixes.packing import Pack, Stem

NAME = "stepforge_prefixes"
LIKE = 0.75
"""Runs are computed in one call where none is shorter than this share of the longest."""


@dataclass(frozen=True)
class Runs:
    """Runs of like length as one causal batch, padded at their ends by their first node."""

    nodes_NC: Tensor
    own_NC: Tensor
    """Where a node is computed here first: beginnings that completions share stand in several runs."""


@dataclass
class Plan:
    """How the attention over one pack is computed. `used` counts the calls of its attention, a layer each."""

    runs: list[Runs]
    stems: list[Stem]
    """Those with something below them."""
    block_mask: Any = None
    """FlexAttention's, in place of the other two."""
    used: int = field(default=0, compare=False)


class Attends(Protocol):
    """A plan that computes by itself, of one new token of each row: BH1D to B1HD."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


def plan_of(pack: Pack) -> Plan:
    stems = pack.stems
    runs = sorted([list(range(s.start, s.stop)) for s in stems] + pack.tails, key=len, reverse=True)
    batches: list[list[list[int]]] = []
    for run in runs:
        if batches and len(run) >= LIKE * len(batches[-1][0]):
            batches[-1].append(run)
        else:
            batches.append([run])
    seen: set[int] = set()
    return Plan(
        runs=[_runs(batch, seen) for batch in batches],
        stems=[stem for stem in stems if stem.end > stem.stop],
    )


def _runs(batch: list[list[int]], seen: set[int]) -> Runs:
    width = len(batch[0])
    own: list[list[bool]] = []
    for run in batch:
        own.append([node not in seen for node in run] + [False] * (width - len(run)))
        seen.update(run)
    nodes = [run + run[:1] * (width - len(run)) for run in batch]
    return Runs(nodes_NC=torch.tensor(nodes), own_NC=torch.tensor(own))


def register() -> None:
    """Make NAME an attention of transformers'."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix_plan: Plan | Attends | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: tensors 1HTD, the result 1THD."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if prefix_plan is None:
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return found, None
    if more.get("dropout") or any(more.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ValueError("attention over shared prefixes knows neither dropout nor caps, sinks or biases of scores")
    causal = more.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ValueError("the layer's attention is not causal")
    # What the network was called with has one element.
    if attention_mask is not None and attention_mask.numel() != 1:
        raise ValueError("the layer's attention has a mask of its own")
    if not isinstance(prefix_plan, Plan):
        scale = more.get("scaling") or query.shape[-1] ** -0.5
        return prefix_plan.attend(module.layer_idx, query, key, value, scale), None
    prefix_plan.used += 1
    if prefix_plan.block_mask is not None:
        from stepforge_jobs.prefixes.flex import flex

        return flex(query, key, value, prefix_plan.block_mask, scale=more.get("scaling")), None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = more.get("scaling") or query.shape[-1] ** -0.5
    out = TreeAttention.apply(query.to(kind), key.to(kind), value.to(kind), prefix_plan, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class TreeAttention(torch.autograd.Function):
    """softmax(q k^T) v of each node over its ancestors and itself, 1HTD."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        # Sums over several stems are kept in float32 at least.
        wide = torch.promote_types(q.dtype, torch.float32)
        out_THD = q.new_zeros((q.shape[2], q.shape[1], v.shape[3]), dtype=wide)
        lse_TH = q.new_zeros((q.shape[2], q.shape[1]), dtype=wide)
        for runs in plan.runs:
            part, lse = _flash(*(_gather(x, runs) for x in (q, k, v)), 0.0, True, scale=scale)
            nodes = runs.nodes_NC[runs.own_NC]
            out_THD[nodes] = part.transpose(1, 2)[runs.own_NC].to(wide)
            lse_TH[nodes] = lse.transpose(1, 2)[runs.own_NC].to(wide)
        out, lse_1HT = out_THD.transpose(0, 1)[None], lse_TH.T[None]
        for stem in plan.stems:
            above, below = slice(stem.start, stem.stop), slice(stem.stop, stem.end)
            part, lse = _flash(q[:, :, below], k[:, :, above], v[:, :, above], 0.0, False, scale=scale)
            both = torch.logaddexp(lse_1HT[:, :, below], lse)
            out[:, :, below].mul_((lse_1HT[:, :, below] - both).exp_()[..., None])
            out[:, :, below].addcmul_(part.to(wide), (lse - both).exp_()[..., None])
            lse_1HT[:, :, below] = both
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse_1HT)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        q, k, v, out, lse = ctx.saved_tensors
        plan: Plan = ctx.plan
        scale: float = ctx.scale
        found = tuple(torch.zeros_like(x) for x in (q, k, v))
        for runs in plan.runs:
            # Where a node stands in several runs, one alone carries its gradient; padding carries none: exp(-inf) is 0.
            lse_N = _gather(lse[..., None], runs)[..., 0].masked_fill(~runs.own_NC[:, None], torch.inf).contiguous()
            given = *(_gather(x, runs) for x in (grad, q, k, v, out)), lse_N
            for whole, part in zip(found, _flash_backward(*given, 0.0, True, scale=scale), strict=True):
                nodes = runs.nodes_NC.flatten()
                whole[0].transpose(0, 1).index_add_(0, nodes, part.transpose(1, 2).flatten(0, 1))
        for stem in plan.stems:
            above, below = slice(stem.start, stem.stop), slice(stem.stop, stem.end)
            parts = _flash_backward(
                grad[:, :, below],
                q[:, :, below],
                k[:, :, above],
                v[:, :, above],
                out[:, :, below],
                lse[:, :, below].contiguous(),
                0.0,
                False,
                scale=scale,
            )
            for whole, part, places in zip(found, parts, (below, above, above), strict=True):
                whole[:, :, places] += part
        return *found, None, None


def _gather(x: Tensor, runs: Runs) -> Tensor:
    """1HTD by nodes to NHCD."""
    rows_THD = x[0].transpose(0, 1)
    taken = rows_THD.index_select(0, runs.nodes_NC.flatten())
    return taken.view(*runs.nodes_NC.shape, *taken.shape[1:]).transpose(1, 2)
