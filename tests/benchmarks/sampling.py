"""Sampling a step's rollouts, ours beside transformers': `python -m tests.benchmarks.sampling`.

The same prompts, eight completions each, temperature 1, without a token that ends them. *rows* computes each rollout
by itself, *copies* prefills shared beginnings once and branches the cache, *one copy* reads a prompt's keys once for
all its rollouts. The peers are `generate` and `generate_batch` (continuous batching with blocks that prompts share),
whose pages and batch are sized for the workload. Seconds of processor, the best of the repeats, each in a process of
its own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.prefixes import decode
from stepforge_jobs.training.models import Policy
from tests.benchmarks.srl_step import NESTED, apart, flat, nested, network

G = 8
PAGE = 32
NEVER = 1 << 30


class Codec:
    """As much of one as sampling asks for."""

    pad, eos = 0, 1


Prompts = list[list[int]]
SHAPES: dict[str, tuple[Prompts, int]] = {
    "64_64": (flat(64, 1)[0][:1] * 16, 64),
    "512_32": (flat(512, 1)[0][:1] * 4, 32),
    "nested_small": (nested(*NESTED["small"])[0][::G], NESTED["small"][2]),
    "nested": (nested(*NESTED[""])[0][::G], NESTED[""][2]),
}


def distinct(prompts: Prompts) -> Prompts:
    """Equal prompts get another first token each, as different problems have."""
    equal = all(prompt == prompts[0] for prompt in prompts)
    return [[2 + place, *prompt[1:]] for place, prompt in enumerate(prompts)] if equal else prompts


def ours(model: Any, prompts: Prompts, tokens: int, *, share: bool, start: int) -> list[list[int]]:
    decode.FROM = start
    codec: Any = Codec()
    policy = Policy(model, codec, 4_096)
    given = {"count": G, "max_new_tokens": tokens, "temperature": 1.0, "seed": 0}
    return sample(policy, prompts, **given, stops=(), share_prefixes=share)  # type: ignore[arg-type]


def generate(model: Any, prompts: Prompts, tokens: int) -> list[list[int]]:
    rows = [prompt for prompt in prompts for _ in range(G)]
    wide = max(map(len, rows))
    ids = torch.tensor([[0] * (wide - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (wide - len(row)) + [1] * len(row) for row in rows])
    given = {"max_new_tokens": tokens, "do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    found: list[list[int]] = model.generate(input_ids=ids, attention_mask=mask, **given)[:, wide:].tolist()
    return found


def continuous(model: Any, prompts: Prompts, tokens: int) -> list[list[int]]:
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    rows = [prompt for prompt in prompts for _ in range(G)]
    pages = sum(-(-(len(row) + tokens) // PAGE) + 1 for row in rows)
    config = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages,
        max_batch_tokens=max(1_024, len(rows)),
        max_requests_per_batch=len(rows),
        use_cuda_graph=False,
        seed=0,
    )
    # A token that is none of the vocabulary: without one it stops at its default.
    sampling = GenerationConfig(max_new_tokens=tokens, do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
    found = model.generate_batch(
        rows, generation_config=sampling, continuous_batching_config=config, progress_bar=False, warmup=False
    )
    return [list(one.generated_tokens) for one in found.values()]


WAYS: dict[str, Callable[[Any, Prompts, int], list[list[int]]]] = {
    "generate": generate,
    "continuous": continuous,
    "rows": partial(ours, share=False, start=NEVER),
    "copies": partial(ours, share=True, start=NEVER),
    "one_copy": partial(ours, share=True, start=decode.FROM),
}


@torch.inference_mode()
def seconds(way: str, size: str, prompts: Prompts, tokens: int) -> float | str:
    """Of one batch; or why it cannot be made."""
    model = network(size).eval()
    WAYS[way](model, prompts[:2], 2)  # What a first call alone costs.
    started = time.process_time()
    found = WAYS[way](model, prompts, tokens)
    took = time.process_time() - started
    if [len(row) for row in found] != [tokens] * (G * len(prompts)):
        return f"{len(found)} completions of {min(map(len, found), default=0)} tokens and more"
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1M"])
    parser.add_argument("--shapes", nargs="+", default=["512_32", "nested_small"], choices=list(SHAPES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"sampling at load {os.getloadavg()[0]:.1f}, torch {torch.__version__}", flush=True)
    for size in given.sizes:
        for name in given.shapes:
            prompts, tokens = distinct(SHAPES[name][0]), SHAPES[name][1]
            took: dict[str, list[float]] = {}
            for _ in range(given.repeats):
                for way in given.ways:
                    found = apart(partial(seconds, way, size, prompts, tokens))
                    assert isinstance(found, float), f"{way}: {found}"
                    took.setdefault(way, []).append(found)
            for way, every in took.items():
                print(f"BENCH sampling_{size}_{name}_{way} {min(every):.3f} s", flush=True)
    print(f"ended at load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
