"""Good and bad outputs for people to look at: previews.json, and a fragment for each where the domain draws them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stepforge.contracts.previews import PREVIEW_FOLDER, PREVIEWS, CompletionRow, Preview, choose, preview_of
from stepforge.contracts.records import Record
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import write_durably
from stepforge_jobs.domains.base import Domain, Previewable


def write_previews(
    domain: Domain,
    records_by_id: Mapping[str, Record],
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    good: int = 6,
    bad: int = 6,
    seed: int = 0,
) -> list[Preview]:
    """Write `previews.json` and `previews/{index}.html` into `folder`; call it before the manifest is written.

    `rows` are the lines of rows.ndjson. A domain that is not Previewable gets entries without a fragment.
    Raises InvalidInput for a row of a record that is not in `records_by_id`.
    """
    chosen = choose((CompletionRow.model_validate(row) for row in rows), good=good, bad=bad, seed=seed)
    previews = []
    for index, row in enumerate(chosen):
        if row.record not in records_by_id:
            raise InvalidInput(f"row of record {row.record!r}, which is none of the {len(records_by_id)} records given")
        file = None
        if isinstance(domain, Previewable):
            file = f"{PREVIEW_FOLDER}/{index}.html"
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, domain.preview(records_by_id[row.record], row.completion).encode())
        previews.append(preview_of(row, file=file))
    lines = [preview.model_dump(mode="json") for preview in previews]
    write_durably(folder / PREVIEWS, json.dumps(lines, indent=1).encode())
    return previews
