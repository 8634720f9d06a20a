"""A step of SRL on the same weights and rollouts, ours beside TRL's: `python -m tests.benchmarks.srl_step`.

Forward and backward of the loss with G = 8: prompts of P tokens with completions of C, and a trajectory of 7 nested
steps. The peers are TRL's GRPOTrainer as shipped (micro-batches of 8 rows, prompts padded to the longest of all), the
same with prompts trimmed to the longest of each micro-batch, and our own path row by row. Each figure stands beside
its ideal: the ratio of the tokens that the network reads. Then a whole step with sampling, reward and reference, and
the largest relative difference of a gradient over 100 ragged batches.

Every figure is the best of its repeats, taken in turn; each runs in a process of its own, whose memory it is.
A piece at a time: `--sizes 10M --parts nested --keep out/srl_step.json`; the last one prints the figures of all.
One thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stepforge.contracts.work import SrlWork
from stepforge_jobs.rl.losses import Whole
from stepforge_jobs.training.grpo import Batch, add_gradient
from stepforge_jobs.training.sharing import Sharing
from tests.support.stock_trl import trl_inputs, trl_trainer

G, STEPS, VOCABULARY = 8, 7, 512
SIZES = {"1M": {"hidden": 128, "layers": 4, "heads": 4}, "10M": {"hidden": 256, "layers": 9, "heads": 8}}
FLAT = [(64, 32), (64, 300), (512, 32), (512, 300)]
NESTED = {"small": (64, 32, 32), "": (256, 100, 100)}
"""Tokens of the problem, of each step and of each completion; the second is the named one."""
PARTS = ("flat", "nested", "gradient", "whole")
CPU = torch.device("cpu")
Rows = tuple[list[list[int]], list[list[int]]]


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak_mib: float
    """Over what the process had before."""
    norm: float
    """Of the whole gradient: all ways must agree in it."""


def network(size: str, *, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape["hidden"],
        intermediate_size=4 * shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=4_096,
        initializer_range=shape["hidden"] ** -0.5,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).train()


def words(count: int, source: random.Random, vocabulary: int = VOCABULARY) -> list[int]:
    return [source.randrange(2, vocabulary) for _ in range(count)]


def flat(prompt: int, completion: int) -> Rows:
    source = random.Random(0)
    given = words(prompt, source)
    return [list(given) for _ in range(G)], [words(completion, source) for _ in range(G)]


def nested(problem: int, step: int, completion: int) -> Rows:
    source = random.Random(0)
    seen, prompts, completions = words(problem, source), [], []
    for _ in range(STEPS):
        prompts += [list(seen) for _ in range(G)]
        completions += [words(completion, source) for _ in range(G)]
        seen += words(step, source)
    return prompts, completions


def ragged(seed: int, vocabulary: int) -> Rows:
    """Some trajectories with steps, completions and a shared head of random lengths; rows in random order."""
    source = random.Random(seed)
    head, rows = words(source.randrange(4), source, vocabulary), []
    for _ in range(source.randrange(1, 4)):
        seen = head + words(source.randrange(1, 20), source, vocabulary)
        for _ in range(source.randrange(1, 4)):
            rows += [(list(seen), words(source.randrange(1, 12), source, vocabulary)) for _ in range(4)]
            seen = seen + words(source.randrange(1, 9), source, vocabulary)
    source.shuffle(rows)
    return [p for p, _ in rows], [c for _, c in rows]


# ── Four ways to one gradient ────────────────────────────────────────────────────────────────────


def advantages(count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


def by_trl(model: Any, rows: Rows, *, trimmed: bool) -> None:
    """TRL's loss of each micro-batch of 8 rows, added up as its trainer does. As shipped, rows are shuffled, and their
    prompts stay padded as they were when all were sampled together."""
    prompts, completions = rows
    order = list(range(len(prompts)))
    if not trimmed:
        random.Random(0).shuffle(order)
    longest = max(map(len, completions))
    trainer = trl_trainer("grpo", clip=0.2, clip_high=0.2, model=model, longest=longest)
    whole = trl_inputs(prompts, completions, advantages(len(prompts)))
    widest = 0 if trimmed else max(map(len, prompts))
    trainer.current_gradient_accumulation_steps = len(order) // G
    for start in range(0, len(order), G):
        part = order[start : start + G]
        inputs = trl_inputs([prompts[i] for i in part], [completions[i] for i in part], whole["advantages"][part])
        for name in ("prompt_ids", "prompt_mask"):
            more = max(0, widest - inputs[name].shape[1])
            inputs[name] = torch.nn.functional.pad(inputs[name], (more, 0))
        trainer._compute_loss(model, inputs).backward()


def by_us(model: Any, rows: Rows, *, share: bool) -> None:
    prompts, completions = rows
    longest = max(map(len, completions))
    whole = Whole(len(prompts), sum(map(len, completions)), longest)
    batch = Batch(prompts, completions, advantages(len(prompts)), whole)
    work = SrlWork(max_new_tokens=longest)
    sharing = Sharing(wanted=share)
    add_gradient(model, batch, work=work, beta=0.0, device=CPU, sharing=sharing)
    assert bool(sharing.reasons) != share, sharing.reasons


WAYS: dict[str, Callable[[Any, Rows], None]] = {
    "trl": partial(by_trl, trimmed=False),
    "trimmed": partial(by_trl, trimmed=True),
    "rows": partial(by_us, share=False),
    "shared": partial(by_us, share=True),
}


def tokens(way: str, rows: Rows) -> int:
    """That the network reads."""
    from stepforge_jobs.prefixes.packing import in_tree_order, pack

    prompts, completions = rows
    if way == "shared":
        return len(pack(prompts, completions, in_tree_order(prompts, completions)).tokens)
    widest, longest = max(map(len, prompts)), max(map(len, completions))
    if way == "trl":
        return len(prompts) * (widest + longest)
    return sum(len(prompt) + longest for prompt in prompts)


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────


def apart(function: Callable[[], Any]) -> Any:
    """The function's answer from a forked process: what it takes of memory is its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        theirs.send(function())

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


def peak_mib() -> float:
    """The most that this process has had in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measured(way: str, size: str, rows: Rows) -> Measured:
    WAYS[way](network("1M"), flat(8, 4))  # What a first call alone costs.
    model = network(size)
    Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
    before = peak_mib()
    started = time.process_time()
    WAYS[way](model, rows)
    seconds = time.process_time() - started
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    return Measured(seconds, peak_mib() - before, float(norm))


def compare(name: str, size: str, rows: Rows, *, repeats: int, ways: list[str]) -> dict[str, float]:
    """Print each way's time and memory, and the gain over it beside its ideal. Returns gain over ideal."""
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            found[way].append(apart(partial(measured, way, size, rows)))
    norms = [one.norm for every in found.values() for one in every]
    assert max(norms) - min(norms) < 1e-3 * max(norms), f"the ways differ: {found}"
    best = {way: min(one.seconds for one in every) for way, every in found.items()}
    shares = {}
    for way in ways:
        memory = max(one.peak_mib for one in found[way])
        print(f"BENCH {name}_{way}_seconds {best[way]:.3f} s, {tokens(way, rows)} tokens, peak {memory:.0f} MiB")
        if way != "shared":
            gain, ideal = best[way] / best["shared"], tokens(way, rows) / tokens("shared", rows)
            shares[way] = gain / ideal
            print(f"BENCH {name}_over_{way} {gain:.2f} times, ideal {ideal:.2f}", flush=True)
    return {**shares, "gain": best["trl"] / best["shared"], "gain_trimmed": best["trimmed"] / best["shared"]}


def largest_difference(batches: int) -> float:
    """Of any parameter's gradient, ours over shared prefixes against TRL's, float32."""
    worst = 0.0
    for seed in range(batches):
        vocabulary = (5, 40)[seed % 2]
        rows = ragged(seed, vocabulary)
        theirs = network("1M", vocabulary=vocabulary)
        ours = copy.deepcopy(theirs)
        by_trl_at_once(theirs, rows)
        by_us(ours, rows, share=True)
        wanted = dict(theirs.named_parameters())
        for parameter_name, parameter in ours.named_parameters():
            gradient = wanted[parameter_name].grad
            assert parameter.grad is not None
            assert gradient is not None
            worst = max(worst, float((parameter.grad - gradient).norm() / gradient.norm()))
    return worst


def by_trl_at_once(model: Any, rows: Rows) -> None:
    longest = max(map(len, rows[1]))
    trainer = trl_trainer("grpo", clip=0.2, clip_high=0.2, model=model, longest=longest)
    trainer._compute_loss(model, trl_inputs(*rows, advantages(len(rows[0])))).backward()


# ── A whole step ─────────────────────────────────────────────────────────────────────────────────


def whole_step(repeats: int) -> None:
    from tests.support.whole_step import ours, trls

    made = {"trl": trls(network("1M"), nested(*NESTED["small"]), G, repeats)}
    for name, share in (("rows", False), ("shared", True)):
        made[name] = ours(network("1M"), nested(*NESTED["small"]), G, repeats, share=share)
    for name, (seconds, phases) in made.items():
        words = ", ".join(f"{phase.removesuffix('_seconds')} {value:.3f}" for phase, value in phases.items())
        print(f"BENCH srl_whole_{name}_seconds {seconds:.3f} s{f' ({words})' if words else ''}")
    print(f"BENCH srl_whole_over_rows {made['rows'][0] / made['shared'][0]:.2f} times")
    print(f"BENCH srl_whole_speedup {made['trl'][0] / made['shared'][0]:.2f} times", flush=True)


def loaded() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def cases(size: str, parts: list[str], *, quick: bool) -> dict[str, tuple[Rows, int]]:
    """Name to rows and repeats."""
    repeats = 1 if quick else {"1M": 2, "10M": 1}[size]
    found: dict[str, tuple[Rows, int]] = {}
    if "flat" in parts:
        for prompt, completion in FLAT:
            found[f"srl_step_speedup_{size}_{prompt}_{completion}"] = flat(prompt, completion), repeats
    if "nested" in parts:
        for label, shape in list(NESTED.items())[: 1 if quick else None]:
            found[f"srl_nested_speedup_{size}{f'_{label}' if label else ''}"] = nested(*shape), repeats
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    arguments.add_argument(
        "--keep", type=Path, help="a JSON file of gains that pieces add to; what is there is left out"
    )
    arguments.add_argument("--quick", action="store_true", help="one repeat, the small nested case alone")
    given = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(
        f"srl_step on {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores at {loaded()}, "
        f"torch {torch.__version__}"
    )
    found: dict[str, dict[str, float]] = {}
    if given.keep is not None:
        given.keep.parent.mkdir(parents=True, exist_ok=True)
        if given.keep.is_file():
            found = json.loads(given.keep.read_text())
    for size in given.sizes:
        for name, (rows, repeats) in cases(size, given.parts, quick=given.quick).items():
            if name not in found:
                found[name] = compare(name, size, rows, repeats=repeats, ways=list(WAYS))
                print(f"{name} ended at {loaded()}", flush=True)
                if given.keep is not None:
                    given.keep.write_text(json.dumps(found))
    if "gradient" in given.parts:
        print(f"BENCH srl_grad_rel_diff {apart(partial(largest_difference, 10 if given.quick else 100)):.1e}")
    if "whole" in given.parts:
        apart(partial(whole_step, 2 if given.quick else 4))
    if found:
        named = found.get("srl_nested_speedup_10M", list(found.values())[-1])
        print(f"BENCH srl_nested_speedup_trimmed {named['gain_trimmed']:.2f} times")
        print(f"BENCH srl_nested_speedup {named['gain']:.2f} times")
        shares = [gains["trl"] for gains in found.values()]
        print(f"BENCH srl_bound_share {statistics.median(shares):.2f} of the ideal, median of {len(shares)}")
    print(f"ended at {loaded()}")


if __name__ == "__main__":
    main()
