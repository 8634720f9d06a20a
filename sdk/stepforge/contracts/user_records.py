"""The user's records: JSON lines, each a full Record or the short form `{"prompt": ..., "answer" or "steps": ...}`.

What a short record leaves out is filled in from its own content, so that an added record changes no other:
id and group from its text, the split from its group's hash (10 % of the groups are `test_known`).
The SDK reads a file before it is submitted, and the dataset job reads it again: both through this module.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from stepforge.contracts.base import Contract, digest, first_problem
from stepforge.contracts.records import Provenance, Record, Source, Split, Step, Stratum
from stepforge.errors import InvalidInput

TEST_SHARE = 0.10
UNKNOWN_VERSION = "unknown"
"""Stands in a verifier's name where its version is not known yet."""


class ShortRecord(Contract):
    """What a person has to write of a record. A step may be plain text."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: Annotated[str, Field(min_length=1)]
    answer: str | None = None
    steps: tuple[Step | Annotated[str, Field(min_length=1)], ...] = ()
    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    group: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    split: Split | None = None
    stratum: Stratum = "target"
    scenario: dict[str, Any] = Field(default_factory=dict)
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


class RecordsFile(NamedTuple):
    path: Path
    name: str
    """What messages call it."""
    sha256: str


def normalised(prompt: str) -> str:
    """Prompts that differ in case or spaces alone are one."""
    return " ".join(prompt.lower().split())


def split_for(group: str, *, has_steps: bool) -> Split:
    """A pure function of the group's name: an added record never moves an old one."""
    point = int.from_bytes(hashlib.sha256(f"split:{group}".encode()).digest()[:8], "big") / 2**64
    if point < TEST_SHARE:
        return "test_known"
    return "train" if has_steps else "rl"


def plugin_version(sha256: str) -> str:
    """The version of a user's verifier is the digest of its code; `{domain}@{plugin_version(...)}` names it."""
    return sha256[:12]


def read_user_files(files: Iterable[RecordsFile], *, domain: str, verifier: str | None) -> list[Record]:
    """Every line of the files, validated. Raises InvalidInput naming file, line and field.

    `verifier` is the `name@version` that judges them: a record that names another is refused. With None that is not
    checked, and the records name an unknown version.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}
    for file in files:
        for number, record in _read_file(file, domain=domain, verifier=verifier):
            where = f"{file.name} line {number}"
            if record.id in seen:
                raise InvalidInput(
                    f"{where}: field 'id': {record.id!r} is already the id of {seen[record.id]}; ids must differ "
                    "(records without an id have one id where they are equal: leave one out)"
                )
            seen[record.id] = where
            records.append(record)
    if not records:
        raise InvalidInput("the records are empty: no *.jsonl file has a line. Give at least one record with a prompt")
    return records


def _read_file(file: RecordsFile, *, domain: str, verifier: str | None) -> Iterator[tuple[int, Record]]:
    judge = verifier or f"{domain}@{UNKNOWN_VERSION}"
    with file.path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file.name} line {number}"
            text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if not text:
                continue
            try:
                # NaN would be written as null further on: it is refused here.
                short = ShortRecord.model_validate(from_json(text, allow_inf_nan=False))
                record = short.record(domain=domain, verifier=judge, file_sha256=file.sha256)
            except ValidationError as error:
                raise InvalidInput(f"{where}: {first_problem(error, fields=ShortRecord.model_fields)}") from error
            except ValueError as error:
                # The parser saw one line, and calls it line 1.
                raise InvalidInput(
                    f"{where}: Invalid JSON: {str(error).replace(' at line 1 column', ' at column')}"
                ) from error
            if verifier is not None and short.verifier not in (None, verifier):
                raise InvalidInput(
                    f"{where}: field 'verifier': {short.verifier!r}, but {verifier!r} judges these: leave it out"
                )
            yield number, record
