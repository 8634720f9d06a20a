"""Records validated in a second on one core: `python tests/benchmarks/records.py`.

The record has the size that the line states; the peer is `json.loads` of the same lines, which validates nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from stepforge.contracts.base import canonical_json
from stepforge.contracts.records import Provenance, Record, Step

ROWS = 20_000
REPEATS = 5


def line(target_bytes: int) -> bytes:
    """A record of about this many bytes with steps, reasons and a scenario."""
    thought = "The inner brow rises because the fear is felt and not shown. "
    steps = tuple(Step(action=f"AU{i} AU{i + 1} ;", title="action units", thought=thought) for i in range(4))
    record = Record(
        id="facial-train-000001",
        domain="facial",
        source="procedural",
        split="train",
        group="fear-anger",
        prompt="P:fear S:anger lv4 suppressed rig2 :",
        steps=steps,
        scenario={"primary": "fear", "secondary": "anger", "level": 4, "display": "suppressed", "rig": "rig2"},
        verifier="facial@1",
        provenance=Provenance(generator="facial.expert@1", seed=0),
    )
    missing = target_bytes - len(canonical_json(record))
    padded = (*steps[:3], steps[3].model_copy(update={"thought": thought + "x" * max(0, missing)}))
    return canonical_json(record.model_copy(update={"steps": padded}))


def per_second(function: Callable[[bytes], object], data: bytes) -> float:
    """The best of a few repeats: what the machine can do when nothing else runs."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(ROWS):
            function(data)
        best = min(best, time.perf_counter() - started)
    return ROWS / best


def main() -> None:
    """Print a figure a line; the last is the one with a target (50,000)."""
    for size in (1_000, 4_096):
        data = line(size)
        print(f"BENCH json_loads_per_s_{len(data)}_bytes {per_second(json.loads, data):.0f} records/s")
        name = "validate_records_per_s" if size == 4_096 else f"validate_records_per_s_{len(data)}_bytes"
        rate = per_second(Record.model_validate_json, data)
        print(
            f"BENCH {name} {rate:.0f} records/s of {len(data)} bytes, one core"
            if size == 4_096
            else f"BENCH {name} {rate:.0f} records/s"
        )


if __name__ == "__main__":
    main()
