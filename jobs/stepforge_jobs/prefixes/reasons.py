"""Whether a network's log-probabilities can be computed over shared prefixes exactly; where not, why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stepforge_jobs.prefixes import attention
from stepforge_jobs.prefixes.network import base_of, log_probabilities, rows_of
from stepforge_jobs.prefixes.packing import in_tree_order, pack

DIFFERENCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Most nats that log-probabilities may differ in the check. A wrong mask or position costs more in random weights."""
ON_CUDA = 0.02
"""There matrix products of float32 may keep 10 bits of a factor."""
NOISES = ("drop", "jitter")
"""What a configuration calls that which is drawn anew for each copy of a token while a network learns."""
OTHER_HEADS = ("classifier", "summary")
"""Dropout of heads that a causal LM does not have, which its configuration names all the same."""
MOVING = ("dynamic", "longrope")
"""Rotary frequencies that depend on the longest sequence of a batch."""
LOUD = 20.0
"""Size of the largest logit in the check: where weights are small, as before training, a cap on logits and most
mistakes would cost next to nothing."""


_REASONS: WeakKeyDictionary[Any, list[str | None]] = WeakKeyDictionary()


def reason_of(network: Any) -> str | None:
    """`why_not`, asked for once of each network."""
    base = base_of(network)
    if base not in _REASONS:
        _REASONS[base] = [why_not(network)]
    return _REASONS[base][0]


def why_not(network: Any) -> str | None:
    """None where it can be; switches the network's attention to ours then, which changes no other call.

    What is known not to fit is named. Then three short rows are computed both ways: whatever else does not fit differs.
    Dropout is asked for apart (`dropout_of`), because it comes and goes with the network's mode.
    """
    base = base_of(network)
    if reason := _known(base):
        return reason
    if base.config._attn_implementation != attention.NAME:
        attention.register()
        base.set_attn_implementation(attention.NAME)
    reason = _difference(base)
    if reason:
        base.set_attn_implementation("sdpa")
    return reason


def _known(base: Any) -> str | None:
    config = base.config
    text = config.get_text_config()
    device = next(base.parameters()).device.type
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    rope = getattr(text, "rope_parameters", None) or {}
    # One for all layers, or one for each kind of them.
    ropes = [rope, *(of for of in rope.values() if isinstance(of, dict))]
    checks = {
        f"its device is {device}; cpu and cuda are known": device not in ("cpu", "cuda"),
        "it reads images or sounds": text is not config,
        "its layers keep a state in place of attention": bool(getattr(base, "_is_stateful", False)),
        f"its layers are of the kinds {sorted(kinds)}": bool(kinds),
        "its attention slides over a window": bool(getattr(text, "sliding_window", None))
        and getattr(text, "use_sliding_window", True),
        "the auxiliary loss of its router counts tokens": bool(getattr(text, "output_router_logits", False)),
        "its rotary frequencies depend on the longest row": any(of.get("rope_type") in MOVING for of in ropes),
        "it takes no positions": "position_ids" not in inspect.signature(base.forward).parameters,
        f"its attention is {config._attn_implementation!r}, and this needs 'sdpa'": config._attn_implementation
        not in ("sdpa", attention.NAME),
    }
    return next((reason for reason, holds in checks.items() if holds), None)


def dropout_of(network: Any) -> str | None:
    """Why a network in its present mode would treat two copies of a token differently; None where it does not."""
    if not network.training:
        return None
    rates = {
        f"config.{name}": value
        for name, value in base_of(network).config.get_text_config().to_dict().items()
        if any(noise in name for noise in NOISES)
        and not name.startswith(OTHER_HEADS)
        and isinstance(value, float)
        and value > 0
    }
    rates |= {"a layer": m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m.training}  # noqa: B035
    return next((f"dropout {rate:g} of {name} falls on each row apart" for name, rate in rates.items()), None)


@torch.no_grad()
def _difference(base: Any) -> str | None:
    """Three rows of two prompts, one of which begins the other, with completions that begin alike, by both ways."""
    device = next(base.parameters()).device
    vocabulary = base.config.get_text_config().vocab_size
    tokens = [(7 * number + 3) % vocabulary for number in range(12)]
    prompts = [tokens[:4], tokens[:4], tokens[:6]]
    completions = [tokens[5:9], [*tokens[5:7], tokens[1]], tokens[2:5]]
    was_training = base.training
    base.eval()
    exactly = partial(torch.autocast, device.type, enabled=False)
    order = in_tree_order(prompts, completions)
    wanted: list[Tensor] = []
    try:
        tree = pack(prompts, completions, order)
        with _loud(base.get_output_embeddings()):
            found = log_probabilities(base, tree, temperature=1.0, precision=lambda _: exactly())
            for row in order:
                whole = torch.tensor([prompts[row] + completions[row]], device=device)
                with exactly():
                    logits = base(input_ids=whole[:, :-1], use_cache=False).logits[0, len(prompts[row]) - 1 :]
                logps = logits.to(found.logps_BT.dtype).log_softmax(-1)
                wanted.append(logps.gather(1, whole[0, len(prompts[row]) :, None])[:, 0])
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        # A layer that knows no such argument, a network without such parts: each model says it in its own way.
        return f"it cannot be called so: {type(error).__name__}: {error}"
    finally:
        base.train(was_training)
    worst = max(float((a - b).abs().max()) for a, b in zip(rows_of(found), wanted, strict=True))
    most = DIFFERENCE.get(next(base.parameters()).dtype, DIFFERENCE[torch.float32])
    if device.type == "cuda":
        most = max(most, ON_CUDA)
    return None if worst <= most else f"its log-probabilities would differ by {worst:.2g} nats"


@contextmanager
def _loud(head: Any) -> Iterator[None]:
    """What the head makes, times one factor for all calls, so that the first one's largest logit is LOUD or more."""
    factors: list[Tensor] = []

    def raised(_head: Any, _given: Any, logits: Tensor) -> Tensor:
        factors.append(factors[0] if factors else (LOUD / logits.abs().max()).clamp(min=1.0))
        return logits * factors[0]

    hook = head.register_forward_hook(raised)
    try:
        yield
    finally:
        hook.remove()
