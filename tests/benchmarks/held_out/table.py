"""Build docs/held-out.md from the committed rows: means with intervals, and which differences they support.

python -m tests.benchmarks.held_out.table            # write the page
python -m tests.benchmarks.held_out.table --check    # fail where the page differs from the rows

Intervals: bootstrap over seeds and, within a seed, over records; differences are paired by seed and record.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.held_out.arms import ARMS, LABELS

ROOT = Path(__file__).resolve().parents[3]
ROWS = ROOT / "tests" / "benchmarks" / "results" / "held_out" / "facial.ndjson"
PAGE = ROOT / "docs" / "held-out.md"
RESAMPLES = 4_000
SPLITS = {"test_known": "new scenarios, known kinds", "test_new": "new kinds", "test_retained": "retained"}
QUESTIONS = (
    ("rlvr", "base", "RLVR alone, all or nothing, above base?"),
    ("rlvr-partial", "base", "RLVR alone, partial credit, above base?"),
    ("srl", "base", "SRL above base?"),
    ("srl", "sft", "SRL above SFT at equal tokens?"),
    ("srl-rlvr", "srl", "SRL -> RLVR above SRL?"),
    ("srl-rlvr", "sft-rlvr", "SRL -> RLVR above SFT -> RLVR?"),
    ("srl-rlvr", "rlvr-partial", "SRL -> RLVR above partial credit alone?"),
)

Cell = dict[int, np.ndarray]
"""Seed to the share of accepted completions of each record."""


def load(path: Path) -> tuple[list[dict[str, Any]], dict[tuple[str, str, str], Cell]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cells: dict[tuple[str, str, str], Cell] = {}
    for row in rows:
        share = np.array(row["accepted"], dtype=float) / row["completions"]
        cells.setdefault((row["arm"], row["split"], row["decoding"]), {})[row["seed"]] = share
    return rows, cells


def interval(cell: Cell, baseline: Cell | None = None, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the 2.5 and 97.5 percentiles of a bootstrap over seeds and the records within them."""
    values = {s: share - (0.0 if baseline is None else baseline[s]) for s, share in cell.items()}
    seeds = sorted(values)
    generator = np.random.Generator(np.random.PCG64(seed))
    # Means of resampled records for each seed; then a resample of seeds picks one of them each time it is drawn.
    inner = np.stack(
        [values[s][generator.integers(0, len(values[s]), size=(RESAMPLES, len(values[s])))].mean(axis=1) for s in seeds]
    )
    drawn = generator.integers(0, len(seeds), size=(RESAMPLES, len(seeds)))
    rows = generator.integers(0, RESAMPLES, size=(RESAMPLES, len(seeds)))
    means = inner[drawn, rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([v.mean() for v in values.values()])), float(low), float(high)


def show(found: tuple[float, float, float], *, signed: bool = False) -> str:
    mean, low, high = found
    sign = "+" if signed else ""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def page(rows: list[dict[str, Any]], cells: dict[tuple[str, str, str], Cell]) -> str:
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# Held-out results: facial",
        "",
        f"Built from `{ROWS.relative_to(ROOT)}` by `python -m tests.benchmarks.held_out.table`; the rows name the "
        "identities of the job specs that made them. "
        f"Seeds {', '.join(map(str, seeds))}; share of answers that pass every hard rule, mean over seeds with a 95 % "
        "interval (bootstrap over seeds and over records within them). Sampled means temperature 1, "
        f"{max(row['completions'] for row in rows)} samples a record.",
        "",
    ]
    for decoding in ("greedy", "sampled"):
        lines += [
            f"## {decoding.capitalize()}",
            "",
            "| arm | " + " | ".join(SPLITS.values()) + " |",
            "|---|---|---|---|",
        ]
        for arm in ARMS:
            scores = [show(interval(cells[arm, split, decoding])) for split in SPLITS]
            lines.append(f"| {LABELS[arm]} | " + " | ".join(scores) + " |")
        lines.append("")
    lines += ["## What the intervals support", "", "Paired by seed and record, sampled decoding.", ""]
    lines += ["| question | " + " | ".join(SPLITS.values()) + " |", "|---|---|---|---|"]
    for arm, other, question in QUESTIONS:
        found = [interval(cells[arm, s, "sampled"], cells[other, s, "sampled"]) for s in SPLITS]
        lines.append(f"| {question} | " + " | ".join(f"{show(f, signed=True)}: {verdict(f)}" for f in found) + " |")
    lines += [
        "",
        "## Budgets",
        "",
        "| arm | optimiser steps | optimiser tokens | seconds (one thread) |",
        "|---|---|---|---|",
    ]
    for arm in ARMS:
        mine = {row["seed"]: row for row in rows if row["arm"] == arm}.values()
        mean = {key: np.mean([row[key] for row in mine]) for key in ("steps", "tokens", "seconds")}
        lines.append(f"| {LABELS[arm]} | {mean['steps']:.0f} | {mean['tokens']:,.0f} | {mean['seconds']:.0f} |")
    specs = {row["evaluate_spec"] for row in rows}
    lines += ["", f"{len(rows)} rows from {len(specs)} evaluations, named by their spec in the rows."]
    return "\n".join(lines) + "\n"


def verdict(found: tuple[float, float, float]) -> str:
    _, low, high = found
    return "yes" if low > 0 else "below" if high < 0 else "not decided"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    built = page(*load(ROWS))
    if parser.parse_args().check:
        same = PAGE.is_file() and PAGE.read_text().startswith(built)
        print(f"{PAGE.name} {'agrees with' if same else 'differs from'} the rows")
        return 0 if same else 1
    # What people wrote below the figures stays.
    rest = PAGE.read_text().partition("\n## Reading\n")[2] if PAGE.is_file() else ""
    PAGE.write_text(built + (f"\n## Reading\n{rest}" if rest else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
