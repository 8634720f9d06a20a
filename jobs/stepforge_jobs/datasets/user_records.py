"""The user's records: JSON lines, each a full Record or the short form `{"prompt": ..., "answer" or "steps": ...}`.

What a short record leaves out is filled in from its own content, so that an added record changes no other:
id and group from its text, the split from its group's hash (10 % of the groups are `test_known`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from stepforge.contracts.base import Contract, digest
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.records import Provenance, Record, Source, Split, Step, Stratum
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import explain

TEST_SHARE = 0.10


class ShortRecord(Contract):
    """What a person has to write of a record. A step may be plain text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True)

    prompt: Annotated[str, Field(min_length=1)]
    answer: str | None = None
    steps: tuple[Step | Annotated[str, Field(min_length=1)], ...] = ()
    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    group: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    split: Split | None = None
    stratum: Stratum = "target"
    scenario: dict[str, Any] = {}
    artifact: dict[str, Any] | None = None
    domain: str | None = None
    source: Source = "user"
    verifier: str | None = None
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _can_be_learnt_from(self) -> ShortRecord:
        if self.answer is None and not self.steps and not self.scenario:
            raise ValueError("a record needs 'answer' or 'steps' (or a 'scenario' that its verifier reads)")
        return self

    def record(self, *, domain: str, verifier: str, file_sha256: str) -> Record:
        """The full record. Raises ValidationError where the parts do not fit each other."""
        steps = tuple(step if isinstance(step, Step) else Step(action=step) for step in self.steps)
        group = self.group or "prompt-" + hashlib.sha256(normalised(self.prompt).encode()).hexdigest()[:24]
        return Record(
            id=self.id or f"user-{digest(self)[:24]}",
            domain=domain,
            source="user",
            split=self.split or split_for(group, has_steps=bool(steps)),
            stratum=self.stratum,
            group=group,
            prompt=self.prompt,
            steps=steps,
            scenario=self.scenario,
            artifact=self.artifact,
            answer=self.answer,
            verifier=verifier,
            provenance=self.provenance or Provenance(generator="user@1", sha256=file_sha256),
        )


def normalised(prompt: str) -> str:
    """Prompts that differ in case or spaces alone are one."""
    return " ".join(prompt.lower().split())


def split_for(group: str, *, has_steps: bool) -> Split:
    """A pure function of the group's name: an added record never moves an old one."""
    point = int.from_bytes(hashlib.sha256(f"split:{group}".encode()).digest()[:8], "big") / 2**64
    if point < TEST_SHARE:
        return "test_known"
    return "train" if has_steps else "rl"


def read_user_records(folder: Path, manifest: Manifest, *, domain: str, verifier: str) -> list[Record]:
    """Every line of every *.jsonl file, validated. Raises InvalidInput naming file, line and field.

    `verifier` is the `name@version` that judges them; a record that names another is refused.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}
    for entry in manifest.files:
        if not entry.path.endswith(".jsonl"):
            continue
        for number, record in _read_file(
            folder / entry.path, entry.path, entry.sha256, domain=domain, verifier=verifier
        ):
            where = f"{entry.path} line {number}"
            if record.id in seen:
                raise InvalidInput(
                    f"{where}: field 'id': {record.id!r} is already the id of {seen[record.id]}; ids must differ"
                )
            seen[record.id] = where
            records.append(record)
    if not records:
        raise InvalidInput("the records are empty: no *.jsonl file has a line. Give at least one record with a prompt")
    return records


def _read_file(path: Path, name: str, sha256: str, *, domain: str, verifier: str) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                short = ShortRecord.model_validate_json(line)
                if short.verifier not in (None, verifier):
                    raise InvalidInput(
                        f"{name} line {number}: field 'verifier': {short.verifier!r}, but {verifier!r} judges these records"
                    )
                yield number, short.record(domain=domain, verifier=verifier, file_sha256=sha256)
            except ValidationError as error:
                raise InvalidInput(f"{name} line {number}: {explain(error)}") from error
