"""Build docs/whole-run.md from the committed rows, and print them as BENCH lines.

python -m tests.benchmarks.whole_run.table            # write the page
python -m tests.benchmarks.whole_run.table --check    # fail where the page differs, or the rows do not bear the claim

The claim: SRL -> RLVR over shared prefixes takes at most half the time of TRL's GRPOTrainer, and its held-out scores
are the same, by overlapping intervals. Times are sums over seeds; their intervals a bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stepforge.contracts.metrics import PHASES, Metric
from tests.benchmarks.reproduction.arms import DESIGNS
from tests.benchmarks.whole_run.arms import ARMS, STAGES
from tests.support.experiment import RESAMPLES, ROOT, Cell, interval, load_rows, show, verdict

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "whole_run"
PAGE = ROOT / "docs" / "whole-run.md"
COLUMNS = {
    ("test_known", "greedy"): "hard, greedy",
    ("test_known", "sampled"): "hard, sampled",
    ("test_retained", "greedy"): "retained, greedy",
    ("test_retained", "sampled"): "retained, sampled",
}
SEEDS = 5
MOST_TIME = 0.5
"""Share of the stock path's time that is claimed."""
NAMES = tuple(str(phase) for phase in PHASES if phase != Metric.RENEWAL_SECONDS)
"""No arm samples with vLLM, so none hands it weights."""
Row = dict[str, Any]
Found = dict[str, tuple[list[Row], dict[tuple[str, str, str], Cell]]]


def load(folder: Path) -> Found:
    return {name: load_rows(path) for name in DESIGNS if (path := folder / f"{name}.ndjson").is_file()}


def took(rows: list[Row], arm: str, unit: str, *, stages: tuple[str, ...] = STAGES) -> np.ndarray:
    """Seconds of each seed, in the order of the seeds."""
    mine = {row["seed"]: row["stages"] for row in rows if row["arm"] == arm}
    return np.array([sum(mine[seed][stage][unit] for stage in stages) for seed in sorted(mine)])


def gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the sums, and the 2.5 and 97.5 percentiles of it over resampled seeds."""
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, len(ours), size=(RESAMPLES, len(ours)))
    low, high = np.quantile(theirs[drawn].sum(1) / ours[drawn].sum(1), [0.025, 0.975])
    return float(theirs.sum() / ours.sum()), float(low), float(high)


def overlap(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one[1] <= other[2] and other[1] <= one[2]


def times(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def phases(rows: list[Row], arm: str) -> dict[str, float]:
    """Seconds of the clock, mean over seeds: the phases that there are, and what is left of the stage."""
    mine = list({row["seed"]: row["stages"] for row in rows if row["arm"] == arm}.values())
    total = {
        name: float(np.mean([sum(stages[s]["phases"].get(name, 0.0) for s in STAGES) for stages in mine]))
        for name in NAMES
    }
    whole = float(np.mean([sum(stages[s]["seconds"] for s in STAGES) for stages in mine]))
    return {**total, "rest": whole - sum(total.values())}


def both(found: Found, arm: str, unit: str) -> np.ndarray:
    return np.concatenate([took(rows, arm, unit) for rows, _ in found.values()])


def report(folder: Path = RESULTS) -> list[str]:
    """BENCH lines."""
    found, lines = load(folder), []
    for name, (rows, cells) in found.items():
        for arm in ARMS:
            scores = [f"{label} {show(interval(cells[arm, *key]))}" for key, label in COLUMNS.items()]
            lines.append(f"BENCH whole_run_score_{name}_{arm} {'; '.join(scores)}")
        for arm in ARMS:
            cpu, clock = (took(rows, arm, unit).mean() for unit in ("cpu_seconds", "seconds"))
            lines.append(f"BENCH whole_run_seconds_{name}_{arm} {cpu:.1f} s of processor, {clock:.1f} s by the clock")
        for stage in STAGES:
            ours, theirs = (took(rows, arm, "cpu_seconds", stages=(stage,)) for arm in ("shared", "trl"))
            lines.append(f"BENCH whole_run_speedup_{name}_{stage} {times(gain(ours, theirs))} times")
        for other in ("trl", "rows"):
            ratio = times(gain(took(rows, "shared", "cpu_seconds"), took(rows, other, "cpu_seconds")))
            lines.append(f"BENCH whole_run_speedup_{name}_over_{other} {ratio} times")
    for other in ("rows", "trl"):
        for unit, label in (("seconds", "clock"), ("cpu_seconds", "cpu")):
            ratio = times(gain(both(found, "shared", unit), both(found, other, unit)))
            lines.append(f"BENCH whole_run_speedup_over_{other}_{label} {ratio} times")
    whole = gain(both(found, "shared", "cpu_seconds"), both(found, "trl", "cpu_seconds"))
    lines.append(f"BENCH whole_run_speedup {whole[0]:.2f} times")
    return lines


def failures(found: Found) -> list[str]:
    """Where the rows do not bear the claim."""
    missing = [f"{name} has not run" for name in DESIGNS if name not in found]
    for name, (rows, cells) in found.items():
        if (count := len({row["seed"] for row in rows})) < SEEDS:
            missing.append(f"{name}: {count} of {SEEDS} seeds")
        for key, label in COLUMNS.items():
            ours, theirs = (interval(cells[arm, *key]) for arm in ("shared", "trl"))
            if not overlap(ours, theirs):
                missing.append(f"{name}: {label} is {show(ours)} shared and {show(theirs)} in TRL")
        for unit in ("cpu_seconds", "seconds"):
            share = took(rows, "shared", unit).sum() / took(rows, "trl", unit).sum()
            if share > MOST_TIME:
                missing.append(f"{name}: {share:.2f} of TRL's {unit}, and at most {MOST_TIME} is claimed")
    return missing


def page(found: Found) -> str:
    seeds = sorted({row["seed"] for rows, _ in found.values() for row in rows})
    loads = [s["load"] for rows, _ in found.values() for row in rows for s in row["stages"].values()]
    lines = [
        "# A whole run beside TRL",
        "",
        f"Built from `{RESULTS.relative_to(ROOT)}`, which `make whole-run` writes; `make verify` compares this page "
        "with the rows. The two tasks of [the reproduction](reproduction.md): SRL, then RLVR, at the learning rates "
        f"that it chose, seeds {', '.join(map(str, seeds))}, each arm from the same base model. Dynamic sampling is "
        "off in all, since TRL has none. TRL's GRPOTrainer gets the same prompts in the same order, our rewards, loss, "
        "optimiser and schedule, one micro-batch of all 128 rows (of its default of 8 a step of SRL took 1.4 times "
        "as long) and no activation checkpointing. *Row by row* is our loop with `share_prefixes = false`.",
        "",
        "## Held-out score",
        "",
        "Share of right answers, mean over seeds with a 95 % interval (bootstrap over seeds and problems within them).",
    ]
    for name, (_, cells) in found.items():
        lines += ["", f"| {name} | " + " | ".join(COLUMNS.values()) + " |", "|---" * 5 + "|"]
        for arm, label in ARMS.items():
            lines.append(f"| {label} | " + " | ".join(show(interval(cells[arm, *key])) for key in COLUMNS) + " |")
        gaps = [interval(cells["shared", *key], cells["trl", *key]) for key in COLUMNS]
        lines.append(
            "| shared less TRL, paired | " + " | ".join(f"{show(g, signed=True)}: {verdict(g)}" for g in gaps) + " |"
        )
    lines += [
        "",
        "## Time",
        "",
        "Seconds a run, mean over seeds: of processor, and by the clock; each stage in a process of its own with its "
        "imports done, from its input to its artifact. Ours also checkpoints, probes the KL and asks the task's "
        f"verifier in a process apart. The load was {min(loads):.1f} to {max(loads):.1f}. Gains are ratios of "
        "sums with a 95 % interval (bootstrap over seeds).",
        "",
        "| | SRL, processor | RLVR, processor | both, processor | both, clock | TRL's over it, processor | clock |",
        "|---" * 7 + "|",
    ]
    for name, (rows, _) in found.items():
        for arm, label in ARMS.items():
            srl, rlvr = (took(rows, arm, "cpu_seconds", stages=(stage,)).mean() for stage in STAGES)
            whole, clock = (took(rows, arm, unit).mean() for unit in ("cpu_seconds", "seconds"))
            gains = [times(gain(took(rows, arm, u), took(rows, "trl", u))) for u in ("cpu_seconds", "seconds")]
            lines.append(
                f"| {name}, {label} | {srl:.1f} | {rlvr:.1f} | {whole:.1f} | {clock:.1f} | {' | '.join(gains)} |"
            )
    names = [*NAMES, "rest"]
    lines += ["", "Where the clock's seconds went (of TRL, sampling and reward alone are told apart):", ""]
    lines += ["| | " + " | ".join(name.removesuffix("_seconds") for name in names) + " |", "|---" * 8 + "|"]
    for name, (rows, _) in found.items():
        for arm, label in ARMS.items():
            spent = phases(rows, arm)
            lines.append(f"| {name}, {label} | " + " | ".join(f"{spent[phase]:.1f}" for phase in names) + " |")
    missing = failures(found)
    said = "Borne out by these rows." if not missing else "Not borne out: " + "; ".join(missing) + "."
    lines += ["", f"**Claim**: the same score in at most half of TRL's time. {said}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    found = load(RESULTS)
    if not found:
        print(f"{RESULTS} has no rows: make whole-run")
        return 1
    built = page(found)
    for line in report():
        print(line)
    if given.check:
        same = PAGE.is_file() and PAGE.read_text().startswith(built)
        print(f"{PAGE.name} {'agrees with' if same else 'differs from'} the rows")
        for missing in failures(found):
            print(missing)
        return 0 if same and not failures(found) else 1
    rest = PAGE.read_text().partition("\n## Reading\n")[2] if PAGE.is_file() else ""
    PAGE.write_text(built + (f"\n## Reading\n{rest}" if rest else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
