"""Compare a new reproduction with the published rows: `python -m tests.benchmarks.reproduction.again FOLDER`.

FOLDER holds the new rows: tests/benchmarks/results/reproduction of a checkout in which `make reproduce` ran. For each
arm: sampled scores on hard problems with 95 % intervals over seeds and problems, whether these overlap, and the median
seconds of its training. Exit code 1 where two intervals lie apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.benchmarks.reproduction.arms import DESIGNS, LABELS
from tests.benchmarks.reproduction.run import RESULTS
from tests.benchmarks.reproduction.table import interval, load_rows, show


def main(folder: Path) -> int:
    apart = 0
    for name in DESIGNS:
        (before, old), (after, new) = (load_rows(where / f"{name}.ndjson") for where in (RESULTS, folder))
        for arm in LABELS:
            was, now = (interval(cells[arm, "test_known", "sampled"]) for cells in (old, new))
            overlap = was[1] <= now[2] and now[1] <= was[2]
            apart += not overlap
            took = [float(np.median([row["seconds"] for row in rows if row["arm"] == arm])) for rows in (before, after)]
            said = "overlap" if overlap else "APART"
            print(f"{name:6} {arm:12} {show(was)} -> {show(now)} {said:8} {took[0]:6.0f} -> {took[1]:6.0f} s")
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
