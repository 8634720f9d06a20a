"""What each policy loses against knowing the truth: `python tests/benchmarks/finetune_regret.py [kind ...]`.

Prints, for each kind of world and policy, mean regret in dollars a question with its 95 % interval over worlds. Regret
is the value of the best choice in the truth less what the choice turned out to be worth and what its pilots cost.
Without kinds: all that the evaluator was tuned on, and then the one held back (`--tuned-on` leaves it out).
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]

SEEDS = 5
WORLDS = 80
"""Of each kind and seed."""


def main() -> None:
    from tests.benchmarks.finetune.baselines import BASELINES, Z_95
    from tests.benchmarks.finetune.worlds import HELD_BACK, KINDS, world

    started = time.perf_counter()
    asked = [name for name in sys.argv[1:] if not name.startswith("--")]
    kinds = asked or [kind for kind in KINDS if not ("--tuned-on" in sys.argv and kind == HELD_BACK)]
    for kind in kinds:
        regrets: dict[str, list[float]] = {name: [] for name in BASELINES}
        for seed in range(SEEDS):
            for number in range(WORLDS):
                given = world(kind, seed, number)
                for name, policy in BASELINES.items():
                    move = policy(given)
                    regrets[name].append(given.best - given.payoff(move.choice, move.piloted))
        for name, values in regrets.items():
            mean = sum(values) / len(values)
            half = Z_95 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
            print(f"BENCH regret_{kind}_{name} {mean:.0f} usd  [{mean - half:.0f}, {mean + half:.0f}]")
    print(f"# {SEEDS} seeds of {WORLDS} worlds a kind, {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
