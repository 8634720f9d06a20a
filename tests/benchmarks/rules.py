"""How long a verdict takes: text in, `Verdict` out, for careful and for careless authors' texts of target scenarios.

Run: python tests/benchmarks/rules.py
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3


def median_microseconds(care: float) -> float:
    """Median of `ROUNDS` passes over 600 records; `care` 1 gives texts that are accepted."""
    from stepforge_jobs.domains.facial import DOMAIN, grammar
    from stepforge_jobs.domains.facial.expert import careless
    from stepforge_jobs.domains.facial.scenarios import targets

    rng = random.Random(0)
    template = DOMAIN.record("rl", 0, seed=0)
    pairs = []
    for scenario in rng.sample(targets(), 600):
        record = template.model_copy(update={"scenario": scenario.model_dump(mode="json")})
        pairs.append((record, grammar.render(careless(scenario, rng, care=care))))
    times = []
    for _ in range(ROUNDS):
        for record, text in pairs:
            start = time.perf_counter()
            DOMAIN.verify(record, text)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    print(f"BENCH rule_refused_us_median {median_microseconds(0.35):.1f} us")
    print(f"BENCH rule_us_median {median_microseconds(1.0):.1f} us")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "sdk"), str(ROOT / "jobs")]
    main()
