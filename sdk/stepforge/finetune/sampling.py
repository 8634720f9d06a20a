"""Which rows of a data set somebody should count, so that a plan's `[counted]` makes its estimate a figure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from stepforge.economics.tokens import LEAST_SAMPLE
from stepforge.errors import InvalidInput
from stepforge.finetune.datasets import Item, read_rows, record_of, validation_split
from stepforge.finetune.pairs import trained
from stepforge.finetune.plan import Plan
from stepforge.finetune.rows import Row

ROWS = 30


def sample(plan: Plan, items: Sequence[Item], *, rows: int = ROWS) -> tuple[dict[str, Row], int]:
    """Rows as the plan would upload them, by the ids of their records: at random and always the same ones, in the order
    of the data; all where there are no more. Also, how many rows a launch would train on.

    Raises InvalidInput for fewer than 20, and for data that the plan could not be launched with.
    """
    if rows < LEAST_SAMPLE:
        raise InvalidInput(f"{rows} rows are too few to say what the others come to: draw {LEAST_SAMPLE} or more")
    learnt = trained(items)
    with TemporaryDirectory() as folder:
        spec = plan.model_copy(update={"counted": {}}).spec(learnt, Path(folder))
        written = list(read_rows(Path(folder) / spec.training.filename))
    if plan.validation == "split":
        learnt = validation_split(learnt, plan.provider.type)[0]
    names = [record_of(item).id for item in learnt]
    of = list(zip(names, written, strict=True))
    chosen = sorted(random.Random(0).sample(range(len(of)), min(rows, len(of))))
    return dict(of[number] for number in chosen), len(of)
