"""Scores of two models on the same held-out records, for the comparison with what was predicted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stepforge.artifacts import read_file
from stepforge.connection import Connection
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.registry import ExternalLineage, PackageMetadata
from stepforge.errors import InvalidInput
from stepforge.machines.packages import ROWS
from stepforge.registry import Registry


def scores_in(lines: Iterable[bytes | str], where: str) -> dict[str, float]:
    """From rows.ndjson of an evaluation: the reward of each record's greedy answer. Raises InvalidInput."""
    found: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row: dict[str, Any] = json.loads(line)
            if row["decoding"] == "greedy":
                found[str(row["record"])] = float(row["reward"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{where} line {number} is no row of an evaluation: {error}") from error
    return found


def scores_of(given: str, connect: Any) -> tuple[dict[str, float], float | None]:
    """Scores by record of a rows.ndjson, or of a registered model (`records/3`), and what that cost at its provider.

    `connect` gives the Connection where a registered model is meant.
    """
    path = Path(given)
    if path.is_file():
        return scores_in(path.read_bytes().splitlines(), given), None
    connection: Connection = connect()
    package = Registry(connection).get(given)
    metadata, lineage = PackageMetadata.of(package.metadata), ExternalLineage.of(package.metadata)
    if metadata is None:
        raise InvalidInput(f"{package.reference} has no evaluation: it was not registered by stepforge")
    evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    rows = read_file(connection.client("s3"), evaluation, ROWS).splitlines()
    return scores_in(rows, package.reference), None if lineage is None else float(lineage.external_cost_usd)


def is_fake(given: str, connect: Any) -> bool:
    """Whether it is a registered model of a local server: nothing was trained, so nothing is learnt from it."""
    if Path(given).is_file():
        return False
    lineage = ExternalLineage.of(Registry(connect()).get(given).metadata)
    return lineage is not None and lineage.external_local_fake == "yes"


def paired(tuned: dict[str, float], base: dict[str, float]) -> tuple[list[float], list[float]]:
    """Both scores of each record that both answered. Raises InvalidInput where there are fewer than two."""
    both = [record for record in tuned if record in base]
    if len(both) < 2:
        raise InvalidInput(
            f"{len(both)} records are in both evaluations ({len(tuned)} and {len(base)}): give two of the same data"
        )
    return [tuned[record] for record in both], [base[record] for record in both]
