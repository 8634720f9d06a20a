"""Rows that begin alike, small networks, and what the tests of shared prefixes compare."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.training.models import Policy
from stepforge_jobs.training.sharing import SWITCHED_OFF, Sharing

CPU = torch.device("cpu")
Rows = tuple[list[list[int]], list[list[int]]]


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
        "gpt2": "GPT2",
        "nanochat": "NanoChat",
        "doge": "Doge",
        "diffllama": "DiffLlama",
    }
    name = names[kind]
    torch.manual_seed(0)
    whole = {"gpt2": "GPT2LMHeadModel"}.get(kind, f"{name}ForCausalLM")
    return getattr(transformers, whole)(getattr(transformers, f"{name}Config")(**shape | more)).train()


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


class Words:
    """As much of a codec as sampling asks for."""

    pad, eos = 0, 1


def sampled(network: Any, prompts: Sequence[Sequence[int]], *, context: int = 256, **more: Any) -> list[list[int]]:
    words: Any = Words()
    given = {"count": 3, "max_new_tokens": 90, "temperature": 1.0, "seed": 5, "stops": {1}, **more}
    return sample(Policy(network, words, context), prompts, **given)


def nested_prompts() -> list[list[int]]:
    source = random.Random(0)
    words = [source.randrange(3, 23) for _ in range(60)]
    return [words[:20], words[:45], words[:20], words, [4, *words[:7]], words[:45]]
