"""The user's records in the channel `records`. How a line is read: stepforge.contracts.user_records."""

from __future__ import annotations

from pathlib import Path

from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Record
from stepforge.contracts.solutions import Solution
from stepforge.contracts.user_records import RecordsFile, ShortRecord, normalised, read_user_files, split_for

__all__ = ["ShortRecord", "normalised", "read_user_records", "split_for"]


def read_user_records(
    folder: Path, manifest: Manifest, *, domain: str, verifier: str, solutions: list[Solution] | None = None
) -> list[Record]:
    """Every line of every *.jsonl file, validated. Raises InvalidInput naming file, line and field.

    `verifier` is the `name@version` that judges them; a record that names another is refused. What was read
    of solutions written as text is added to `solutions`.
    """
    files = [RecordsFile(folder / e.path, e.path, e.sha256) for e in manifest.files if e.path.endswith(".jsonl")]
    return read_user_files(files, domain=domain, verifier=verifier, solutions=solutions)
