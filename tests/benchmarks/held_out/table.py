"""Build docs/held-out.md from the committed rows: means with intervals, and which differences they support.

python -m tests.benchmarks.held_out.table            # write the page
python -m tests.benchmarks.held_out.table --check    # fail where the page differs from the rows

Intervals: bootstrap over seeds and, within a seed, over records; differences are paired by seed and record.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from tests.benchmarks.held_out.arms import ARMS, LABELS
from tests.support.experiment import ROOT, Cell, interval, load_rows, show, verdict

ROWS = ROOT / "tests" / "benchmarks" / "results" / "held_out" / "facial.ndjson"
PAGE = ROOT / "docs" / "held-out.md"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    built = page(*load_rows(ROWS))
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
