"""What each policy loses against knowing the truth: `python tests/benchmarks/finetune_regret.py [kind ...]`.

Prints, for each kind of world and policy, mean regret in dollars a question with its 95 % interval over worlds. Regret
is the value of the best choice in the truth less what the choice turned out to be worth and what its pilots cost.
Then, for the evaluator: how far it is above the best policy as a share of the gap between never and best, and how many
of the true net values lie in its 80 % intervals. Without kinds: all that it was tuned on, and last the one held back
(`--tuned-on` leaves that out).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]

SEEDS = 5
WORLDS = 80
"""Of each kind and seed."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95 % interval, by the normal approximation."""
    mean = sum(values) / len(values)
    half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return mean, mean - half, mean + half


def kind_of_world(kind: str) -> dict[str, float]:
    """Print one kind's lines. Returns the mean regret of each policy."""
    from tests.benchmarks.finetune import ours
    from tests.benchmarks.finetune.baselines import BASELINES
    from tests.benchmarks.finetune.worlds import WELL_SPECIFIED, world

    regrets: dict[str, list[float]] = {"ours": [], **{name: [] for name in BASELINES}}
    inside: list[float] = []
    inside_measured: list[float] = []
    pilots = 0
    for seed in range(SEEDS):
        for number in range(WORLDS):
            given = world(kind, seed, number)
            move, verdict = ours.run(given)
            pilots += len(move.piloted)
            regrets["ours"].append(given.best - given.payoff(move.choice, move.piloted))
            held = [arm.net_usd.low <= given.values[arm.name] <= arm.net_usd.high for arm in verdict.arms]
            # Arms of one world share its demand: a world is one observation.
            inside.append(sum(held) / len(held))
            inside_measured += [h for h, arm in zip(held, verdict.arms, strict=True) if arm.measured != "no"]
            for name, policy in BASELINES.items():
                other = policy(given)
                regrets[name].append(given.best - given.payoff(other.choice, other.piloted))
    means = {}
    for name, values in regrets.items():
        means[name], low, high = interval(values)
        print(f"BENCH regret_{kind}_{name} {means[name]:.0f} usd  [{low:.0f}, {high:.0f}]")
    best = min((name for name in means if name != "ours"), key=lambda name: means[name])
    gap = means["never"] - min(means.values())
    above = (means["ours"] - min(means.values())) / gap if gap > 0 else 0.0
    paired = [a - b for a, b in zip(regrets["ours"], regrets[best], strict=True)]
    difference, low, high = interval(paired)
    print(f"BENCH above_{kind} {above:.1%} of never to best  (target 10 %)")
    print(f"BENCH against_{kind}_{best} {difference:.0f} usd  [{low:.0f}, {high:.0f}] ours less the best other's")
    covered, low, high = interval(inside)
    target = "  (target 75-85 %)" if kind in WELL_SPECIFIED else ""
    print(f"BENCH coverage_{kind} {covered:.1%} of true net values in 80 %  [{low:.1%}, {high:.1%}]{target}")
    piloted = sum(inside_measured) / max(1, len(inside_measured))
    print(f"BENCH coveragepiloted_{kind} {piloted:.1%} of {len(inside_measured)} after a pilot")
    print(f"BENCH pilots_{kind} {pilots / SEEDS / WORLDS:.2f} a question", flush=True)
    return means


def main() -> None:
    from tests.benchmarks.finetune.worlds import HELD_BACK, KINDS

    started = time.perf_counter()
    asked = [name for name in sys.argv[1:] if not name.startswith("--")]
    kinds = asked or [kind for kind in KINDS if not ("--tuned-on" in sys.argv and kind == HELD_BACK)]
    means = {kind: kind_of_world(kind) for kind in kinds}
    for name in means[kinds[0]]:
        kind = max(means, key=lambda kind: means[kind][name])
        print(f"BENCH worst_{name} {means[kind][name]:.0f} usd  in {kind}")
    cpu = time.process_time()
    print(f"# {SEEDS} seeds of {WORLDS} worlds a kind, {time.perf_counter() - started:.0f} s, {cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
