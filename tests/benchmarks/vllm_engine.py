"""Our vLLM engine on vLLM itself: `STEPFORGE_VLLM_PYTHON=.../python python -m tests.benchmarks.vllm_engine`.

On any device that vLLM runs on; on a CPU with a build of vLLM for CPUs, in float32. Says whether vLLM knows each name
that we pass, how far its log-probabilities are from our network's before and after the weights change, with adapters
and at another temperature, whether it draws what the network's own probabilities say, and whether a stage learns from
its rollouts. Seconds are of this machine and say nothing of another device.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch

from stepforge.contracts.metrics import Metric
from stepforge.contracts.work import Lora, RlvrWork, ScratchModel, Vllm
from stepforge_jobs.engines.base import Completion, Request, complete
from stepforge_jobs.engines.vllm import VllmEngine, interpreter, llm_arguments, sampling_parameters
from stepforge_jobs.evaluation.sampling import sample
from stepforge_jobs.rl.importance import importance
from stepforge_jobs.testing import CountingDomain
from stepforge_jobs.training.gathering import Judged, Pool
from stepforge_jobs.training.grpo import GrpoStage
from stepforge_jobs.training.models import Policy, from_scratch, with_lora
from stepforge_jobs.training.sharing import Sharing
from stepforge_jobs.training.stage import Start

NAMES = Path(__file__).resolve().parent.parent / "unit" / "jobs" / "vllm_names.json"
# Heads of 32: vLLM's attention on CPUs knows no narrower ones.
SMALL = ScratchModel(hidden_size=64, layers=3, heads=2, context=96)
PROMPTS, G, TOKENS = 16, 8, 24
DRAWS = 4_000
STEPS, WANTED = 40, 7
ASK_NAMES = """
import dataclasses, inspect, json, vllm
from vllm.engine.arg_utils import EngineArgs
print(json.dumps({
    "version": vllm.__version__,
    "llm": sorted({*inspect.signature(vllm.LLM).parameters, *(field.name for field in dataclasses.fields(EngineArgs))}),
    "sampling": sorted(inspect.signature(vllm.SamplingParams).parameters),
    "methods": {name: list(inspect.signature(getattr(vllm.LLM, name)).parameters)
                for name in ("generate", "sleep", "wake_up", "reset_prefix_cache", "collective_rpc")},
}))
"""


def names(python: str) -> dict[str, Any]:
    """What vLLM's own calls are named."""
    done = subprocess.run([python, "-c", ASK_NAMES], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def unknown(known: dict[str, Any], device: torch.device) -> list[str]:
    """Names that we pass and vLLM does not know."""
    llm = llm_arguments(Path("x"), Vllm(), context=8, seed=0, device=device)
    request = sampling_parameters(Request([1], 1, 0), temperature=1.0, stops=[1])
    return [name for name in llm if name not in known["llm"]] + [n for n in request if n not in known["sampling"]]


def prompts_of(policy: Policy) -> list[list[int]]:
    """Of one task, so that they share their beginning."""
    words = " ".join(f"n{n} up x{1 + n % 3} ;" for n in range(8))
    return policy.codec.contexts(f"{words} n{n} :" for n in range(PROMPTS))


Drawn = tuple[list[list[int]], list[Completion]]


def drawn(engine: VllmEngine, policy: Policy, temperature: float, seed: int) -> Drawn:
    prompts = prompts_of(policy)
    asked = {"max_new_tokens": TOKENS, "temperature": temperature, "seed": seed, "stops": {policy.codec.eos}}
    return [p for p in prompts for _ in range(G)], complete(engine, policy, prompts, count=G, **asked)  # type: ignore[arg-type]


def distance(policy: Policy, drawn: Drawn, temperature: float) -> tuple[float, Any]:
    """Largest difference of a token's log-probability to our network's, and the weights that follow."""
    prompts, found = drawn
    tokens = [completion.tokens for completion in found]
    own = Sharing(wanted=True).logps(policy.network, prompts, tokens, temperature=temperature, device=policy.device)
    engine = [torch.tensor(completion.logps) for completion in found]
    own = [row.cpu() for row in own]
    most = max(float((a - b).abs().max()) for a, b in zip(own, engine, strict=True))
    return most, importance(own, engine, cap=2.0, weigh="token")


def shaken(policy: Policy, seed: int, std: float = 0.05) -> None:
    """Other weights: of the adapters where there are any, else of all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter += std * torch.randn(parameter.shape, generator=generator).to(parameter.device)


def first_tokens(engine: VllmEngine, policy: Policy) -> tuple[float, int]:
    """Chi-square of many first tokens against the network's own probabilities, and its degrees of freedom."""
    prompt = prompts_of(policy)[0]
    found = complete(
        engine, policy, [prompt], count=DRAWS, max_new_tokens=1, temperature=1.0, seed=5, stops={policy.codec.eos}
    )
    seen = Counter(completion.tokens[0] for completion in found)
    with torch.no_grad():
        logits = policy.network(torch.tensor([prompt], device=policy.device)).logits[0, -1].double()
    expected = (DRAWS * torch.softmax(logits, -1)).tolist()
    large = [token for token, count in enumerate(expected) if count >= 5]
    rest_seen = DRAWS - sum(seen[token] for token in large)
    rest = DRAWS - sum(expected[token] for token in large)
    cells = [(seen[token], expected[token]) for token in large] + ([(rest_seen, rest)] if rest >= 1 else [])
    return sum((n - e) ** 2 / e for n, e in cells), len(cells) - 1


def learnt(engine: VllmEngine | None, steps: int) -> tuple[float, float, float, float]:
    """Mean reward of the first and the last five steps of GRPO towards one token, largest KL and weight on the way."""
    policy = from_scratch(SMALL, CountingDomain.vocabulary, step_end=";", seed=6)
    work = RlvrWork(
        batch_prompts=8, group_size=G, max_new_tokens=8, updates_per_batch=2, vllm=None if engine is None else Vllm()
    )
    pool = Pool([(prompt, place) for place, prompt in enumerate(prompts_of(policy))], count=8, seed=0)
    start = Start(policy, None, cast(Any, None), [], [], cast(Any, None), warn=print)

    def judge(problems: Sequence[int], completions: Sequence[Sequence[int]]) -> Judged:
        return Judged(rewards=[row.count(WANTED) / len(row) for row in completions], metrics={})

    stage = GrpoStage[int](start, work, pools=[pool], judge=judge, stops={policy.codec.eos}, engine=engine)
    optimiser = torch.optim.AdamW(policy.network.parameters(), lr=1e-3)
    rewards, kls, largest = [], [0.0], [1.0]
    for step in range(steps):
        for update in range(stage.updates):
            optimiser.zero_grad()
            metrics = stage.backward(step, update).metrics
            optimiser.step()
            if not update:
                rewards.append(metrics[Metric.REWARD])
                kls.append(metrics.get(Metric.SAMPLER_KL, 0.0))
                largest.append(metrics.get(Metric.IMPORTANCE_LARGEST, 1.0))
    return fmean(rewards[:5]), fmean(rewards[-5:]), max(kls), max(largest)


def report(name: str, found: tuple[float, Any]) -> None:
    most, weights = found
    print(
        f"{name:44} logp off by {most:.2e} at most, KL {weights.kl:.2e}, weights' mean {weights.mean:.6f}, "
        f"largest {weights.largest:.6f}, capped {weights.capped:.4f}"
    )


def compare(policy: Policy, engine: VllmEngine, label: str) -> float:
    """Say how near the two are, before and after a change of weights; the largest difference of all."""
    started = time.perf_counter()
    engine.renew(policy)
    print(f"{label}: {engine.name} started in {time.perf_counter() - started:.1f} s")
    worst = 0.0
    for temperature in (1.0, 0.7):
        first = drawn(engine, policy, temperature, seed=1)
        report(f"{label}, temperature {temperature:g}", near := distance(policy, first, temperature))
        worst = max(worst, near[0])
        _, again = drawn(engine, policy, temperature, seed=1)
        same = sum(a.tokens == b.tokens for a, b in zip(first[1], again, strict=True))
        ended = sum(completion.tokens[-1] == policy.codec.eos for completion in again)
        print(f"{'':44} the same seeds again: {same} of {len(again)} the same; {ended} ended by a stop token")
    engine.rest()
    shaken(policy, seed=2)
    report(f"{label}, weights changed, engine's old", distance(policy, first, temperature))
    started = time.perf_counter()
    engine.renew(policy)
    seconds = time.perf_counter() - started
    after = drawn(engine, policy, 1.0, seed=3)
    report(f"{label}, weights renewed ({1e3 * seconds:.0f} ms)", near := distance(policy, after, 1.0))
    return max(worst, near[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", action="store_true", help="write the names that vLLM's calls have for the tests")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    python = interpreter()
    known = names(python)
    if options.names:
        NAMES.write_text(json.dumps(known, indent=1) + "\n")
    policy = from_scratch(SMALL, CountingDomain.vocabulary, step_end=";", seed=0)
    print(f"vllm {known['version']}, torch {torch.__version__}, {platform.machine()}, device {policy.device}")
    wrong = unknown(known, policy.device) + unknown(known, torch.device("cuda"))
    print(f"names that we pass and vLLM does not know: {wrong or 'none'}")
    with VllmEngine(Vllm(), python=python, context=SMALL.context, seed=0) as engine:
        worst = compare(policy, engine, "all weights")
        square, freedom = first_tokens(engine, policy)
        print(f"{DRAWS} first tokens against the network's probabilities: chi-square {square:.1f}, {freedom} degrees")
        asked = {"count": G, "max_new_tokens": TOKENS, "temperature": 1.0, "seed": 9, "stops": {policy.codec.eos}}
        times = {}
        for name in ("vllm", "own"):
            started = time.perf_counter()
            if name == "vllm":
                complete(engine, policy, prompts_of(policy), **asked)  # type: ignore[arg-type]
            else:
                sample(policy, prompts_of(policy), **asked)  # type: ignore[arg-type]
            times[name] = time.perf_counter() - started
        print(f"{PROMPTS * G} rollouts here: vLLM {times['vllm']:.2f} s, our own sampler {times['own']:.2f} s")
    adapted = with_lora(from_scratch(SMALL, CountingDomain.vocabulary, step_end=";", seed=1), Lora(), seed=1)
    shaken(adapted, seed=4)
    with VllmEngine(Vllm(), python=python, context=SMALL.context, seed=0) as engine:
        worst = max(worst, compare(adapted, engine, "adapters"))
    with VllmEngine(Vllm(), python=python, context=SMALL.context, seed=0) as engine:
        by_vllm = learnt(engine, STEPS)
    for name, (before, after, kl, largest) in (("vLLM's rollouts", by_vllm), ("our own", learnt(None, STEPS))):
        print(
            f"{STEPS} steps of GRPO on {name:16} reward {before:.3f} -> {after:.3f}, "
            f"largest KL {kl:.2e}, weight {largest:.6f}"
        )
    # By Wilson and Hilferty's normal approximation.
    deviations = ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    print(f"BENCH vllm_logp_difference {worst:.3g} nats")
    print(f"BENCH vllm_first_token_deviations {deviations:.2f} sigma")
    print(f"BENCH vllm_reward_gained {by_vllm[1] - by_vllm[0]:.3f} reward")
    print(f"BENCH vllm_unknown_names {len(wrong)} names")


if __name__ == "__main__":
    main()
