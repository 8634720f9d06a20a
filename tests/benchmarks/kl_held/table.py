"""Build docs/kl-held.md from the committed rows, and say whether they support the claim.

python -m tests.benchmarks.kl_held.table            # write the page
python -m tests.benchmarks.kl_held.table --check    # fail where the page differs from the rows, or the claim fails
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from tests.benchmarks.kl_held.run import ARMS, ROWS, STOCK
from tests.support.experiment import ROOT, Cell, interval, show

PAGE = ROOT / "docs" / "kl-held.md"
CAP = 0.1
NEEDED = 0.95
LABELS = {
    "stock": "stock: no penalty",
    "fixed": "beta .1 throughout",
    "ziegler": "Ziegler's controller from .1, no guard",
    "held-rollouts": "held, penalty on the rollouts",
    "held": "held, penalty on retained prompts (the default of `kl`)",
}
TARGET = ("test_known", "test_new")

Row = dict[str, Any]


def cell(rows: list[Row], arm: str, splits: tuple[str, ...]) -> Cell:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row["split"] in splits:
            found.setdefault(row["seed"], []).extend(np.array(row["accepted"]) / row["completions"])
    return {seed: np.array(values) for seed, values in found.items()}


def highest(rows: list[Row], arm: str) -> dict[int, float]:
    """The highest KL that an evaluation left standing, by seed."""
    return {row["seed"]: max(row["kl"]) for row in rows if row["arm"] == arm}


def claim(rows: list[Row]) -> dict[str, bool]:
    mean = {arm: np.mean([v.mean() for v in cell(rows, arm, TARGET).values()]) for arm in ("stock", "held")}
    return {
        "stock settings breach the cap in 3 of 5 seeds or more": sum(v > CAP for v in highest(rows, "stock").values())
        >= 3,
        "a held KL never does": all(v <= CAP for v in highest(rows, "held").values()),
        f"at {NEEDED:.0%} of the held-out reward or more": bool(mean["held"] >= NEEDED * mean["stock"]),
    }


def page(rows: list[Row]) -> str:
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# KL that is held",
        "",
        f"Built from `{ROWS.relative_to(ROOT)}` by `python -m tests.benchmarks.kl_held.table`, and those rows by "
        "`python -m tests.benchmarks.kl_held.run`; they name the specs of the jobs that made them. "
        f"Arms differ in `beta` and `kl` alone: {STOCK.steps} steps of RLVR on the "
        f"counting domain, learning rate {STOCK.learning_rate:g}, an evaluation every {STOCK.checkpoint_every} steps, "
        f"nothing rehearsed, seeds {', '.join(map(str, seeds))}. KL is the exact one to the stage's initial policy in "
        "nats a token, on retained prompts. Target and retained: share of sampled answers to held-out problems that "
        "are right, with 95 % intervals (bootstrap over seeds and over records within them).",
        "",
        f"| arm | seeds over {CAP:g} | highest KL, mean (max) | refused | target | retained |",
        "|---|---|---|---|---|---|",
    ]
    base = [show(interval(cell(rows, "base", splits))) for splits in (TARGET, ("test_retained",))]
    lines.append("| base | | | | " + " | ".join(base) + " |")
    for arm in ARMS:
        peaks = highest(rows, arm)
        refused = sum(len(row["kl_refused"]) for row in rows if row["arm"] == arm and row["split"] == "test_new")
        scores = [show(interval(cell(rows, arm, splits))) for splits in (TARGET, ("test_retained",))]
        over = sum(value > CAP for value in peaks.values())
        lines.append(
            f"| {LABELS[arm]} | {over} of {len(peaks)} | {np.mean([*peaks.values()]):.3f} ({max(peaks.values()):.3f}) "
            f"| {refused} | " + " | ".join(scores) + " |"
        )
    lines += ["", "What the rows support:", ""]
    lines += [f"- {words}: {'yes' if holds else 'no'}" for words, holds in claim(rows).items()]
    means = {arm: np.mean([v.mean() for v in cell(rows, arm, TARGET).values()]) for arm in ARMS}
    lines.append(f"- held-out reward of `held`: {means['held'] / means['stock']:.1%} of stock's")
    difference = interval(cell(rows, "held", ("test_retained",)), cell(rows, "stock", ("test_retained",)))
    lines.append(f"- `held` above stock on retained problems, paired: {show(difference, signed=True)}")
    lines += ["", "## On problems that the base fails", ""]
    lines += [
        "There the KL is reported, not capped: who always succeeds is at least ln(1 / p_base) nats a completion away, "
        "with p_base from 16 completions of the base for each problem.",
        "",
        "| arm | nats a token | nats a completion | ln(1 / p_base) |",
        "|---|---|---|---|",
    ]
    for arm in ("held-rollouts", "held"):
        last = [row for row in rows if row["arm"] == arm and row["split"] == "test_new"]
        keys = ("kl_hard", "kl_hard_completion", "kl_hard_bound")
        lines.append(f"| {arm} | " + " | ".join(f"{np.mean([row[k][-1] for row in last]):.2f}" for k in keys) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    built = page(rows)
    if parser.parse_args().check:
        same = PAGE.is_file() and PAGE.read_text().startswith(built)
        print(f"{PAGE.name} {'agrees with' if same else 'differs from'} the rows")
        for words, holds in claim(rows).items():
            print(f"{'yes' if holds else 'NO ':<4}{words}")
        return 0 if same and all(claim(rows).values()) else 1
    # What people wrote below the figures stays.
    rest = PAGE.read_text().partition("\n## Reading\n")[2] if PAGE.is_file() else ""
    PAGE.write_text(built + (f"\n## Reading\n{rest}" if rest else ""))
    print(built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
