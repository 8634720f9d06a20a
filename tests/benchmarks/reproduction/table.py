"""Build docs/reproduction.md and its picture from the committed rows.

python -m tests.benchmarks.reproduction.table            # write the page
python -m tests.benchmarks.reproduction.table --check    # fail where the page differs from the rows
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from tests.benchmarks.reproduction.arms import DESIGNS, LABELS, RATES
from tests.support.experiment import ROOT, Cell, interval, load_rows, show, verdict

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"
PICTURE = ROOT / "docs" / "images" / "reproduction.svg"
COLUMNS = {
    ("test_known", "greedy"): "hard, greedy",
    ("test_known", "sampled"): "hard, sampled",
    ("test_retained", "greedy"): "retained, greedy",
    ("test_retained", "sampled"): "retained, sampled",
}
QUESTIONS = (
    ("rlvr", "base", "RLVR alone above base?"),
    ("srl", "base", "SRL above base?"),
    ("srl", "rlvr", "SRL above RLVR alone?"),
    ("srl", "sft-1", "SRL above SFT at equal tokens?"),
    ("srl", "sft-10", "SRL above SFT at ten times the tokens?"),
    ("srl-2", "srl", "twice the steps above SRL?"),
    ("srl", "srl-static", "SRL above SRL without dynamic sampling?"),
    ("srl", "srl-whole", "SRL above one-step similarity?"),
    ("srl-rlvr", "srl", "SRL -> RLVR above SRL?"),
    ("srl-rlvr", "sft-rlvr", "SRL -> RLVR above SFT -> RLVR?"),
)
Cells = dict[tuple[str, str, str], Cell]


def page(found: dict[str, tuple[list[dict[str, Any]], Cells]], rates: list[dict[str, Any]]) -> str:
    seeds = sorted({row["seed"] for rows, _ in found.values() for row in rows})
    samples = max(row["completions"] for rows, _ in found.values() for row in rows)
    lines = [
        "# Reproduction: the ordering of SRL's paper in two small designs",
        "",
        "Built from `tests/benchmarks/results/reproduction` by `make reproduce`, which runs the shipped jobs; each row "
        "names the specs that made it. `python -m tests.benchmarks.reproduction.table --check` compares all above "
        '"Reading" with the rows; the numbers in the prose below it are written by hand and not checked. '
        f"Seeds {', '.join(map(str, seeds))}; share of right answers, mean over seeds with a 95 % interval (bootstrap "
        f"over seeds and over problems within them). Sampled means temperature 1, {samples} samples a problem.",
        "",
        "![Share of right answers, sampled, by arm](images/reproduction.svg)",
    ]
    for name, (rows, cells) in found.items():
        lines += [
            "",
            f"## {DESIGNS[name].title}",
            "",
            "| arm | " + " | ".join(COLUMNS.values()) + " |",
            "|---" * 5 + "|",
        ]
        for arm, label in LABELS.items():
            scores = [show(interval(cells[arm, split, decoding])) for split, decoding in COLUMNS]
            lines.append(f"| {label} | " + " | ".join(scores) + " |")
        lines += ["", "Paired by seed and problem, sampled:", "", "| question | hard | retained |", "|---|---|---|"]
        for arm, other, question in QUESTIONS:
            gaps = [
                interval(cells[arm, s, "sampled"], cells[other, s, "sampled"]) for s in ("test_known", "test_retained")
            ]
            lines.append(f"| {question} | " + " | ".join(f"{show(g, signed=True)}: {verdict(g)}" for g in gaps) + " |")
        lines += [
            "",
            "| arm | learning rate | optimiser steps | optimiser tokens | seconds (median, shared machine) |",
            "|---" * 5 + "|",
        ]
        for arm, label in LABELS.items():
            mine = list({row["seed"]: row for row in rows if row["arm"] == arm}.values())
            mean = {key: np.mean([row[key] for row in mine]) for key in ("steps", "tokens")}
            # Other work on the machine stretched single runs up to elevenfold.
            seconds = np.median([row["seconds"] for row in mine])
            budget = f"{mean['steps']:.0f} | {mean['tokens']:,.0f} | {seconds:.0f}"
            lines.append(f"| {label} | {mine[0]['rate']:g} | {budget} |")
    lines += [
        "",
        "## Learning rates",
        "",
        "Each kind of stage chose among the same three, by its sampled score on hard problems with a seed of its own; "
        "RLVR's rate was chosen after SRL and serves RLVR everywhere.",
        "",
        "| design | stage | " + " | ".join(f"{rate:g}" for rate in RATES) + " |",
        "|---" * 5 + "|",
    ]
    for name in found:
        for kind in dict.fromkeys(row["kind"] for row in rates if row["design"] == name):
            scores = {row["rate"]: row["hard"] for row in rates if row["design"] == name and row["kind"] == kind}
            lines.append(f"| {name} | {kind} | " + " | ".join(f"{scores[rate]:.3f}" for rate in RATES) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, tuple[list[dict[str, Any]], Cells]]) -> None:
    """Hard and retained problems, sampled: a dot with its interval for each arm."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "stepforge"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5.2 * len(found), 4.2), sharey=True, squeeze=False)
    places = np.arange(len(LABELS))[::-1]
    for axis, (name, (_, cells)) in zip(axes[0], found.items(), strict=True):
        for split, colour, label, offset in (
            ("test_known", "#2a6f97", "hard", 0.12),
            ("test_retained", "#bc6c25", "retained", -0.12),
        ):
            scores = [interval(cells[arm, split, "sampled"]) for arm in LABELS]
            means = np.array([score[0] for score in scores])
            spans = np.array([[mean - low, high - mean] for mean, low, high in scores]).T.clip(min=0)
            axis.errorbar(
                means, places + offset, xerr=spans, fmt="o", color=colour, label=label, capsize=2, markersize=4
            )
        axis.set(title=DESIGNS[name].title.split(":")[0], xlim=(-0.03, 1.03), xlabel="right answers, sampled")
        axis.set_yticks(places, LABELS.values())
        axis.grid(axis="x", color="#dddddd")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    marks, names = axes[0][0].get_legend_handles_labels()
    figure.legend(marks, names, loc="upper left", ncols=2, frameon=False)
    figure.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    rates = [json.loads(line) for line in (RESULTS / "rates.ndjson").read_text().splitlines()]
    found = {name: load_rows(path) for name in DESIGNS if (path := RESULTS / f"{name}.ndjson").is_file()}
    built = page(found, rates)
    if given.check:
        same = PAGE.is_file() and PAGE.read_text().startswith(built)
        print(f"{PAGE.name} {'agrees with' if same else 'differs from'} the rows")
        return 0 if same else 1
    draw(found)
    # What people wrote below the figures stays.
    rest = PAGE.read_text().partition("\n## Reading\n")[2] if PAGE.is_file() else ""
    PAGE.write_text(built + (f"\n## Reading\n{rest}" if rest else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
