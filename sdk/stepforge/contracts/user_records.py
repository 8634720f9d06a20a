"""The user's records: JSON lines, each a full Record or the short form `{"prompt": ..., "answer" or "steps": ...}`.

What a short record leaves out is filled in from its own content, so that an added record changes no other:
id and group from its text, the split from its group's hash (10 % of the groups are `test_known`).
The SDK reads a file before it is submitted, and the dataset job reads it again: both through this module.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from stepforge.contracts.base import Contract, digest, first_problem
from stepforge.contracts.records import Provenance, Record, Source, Split, Step, Stratum
from stepforge.contracts.solutions import Solution, parse_solution
from stepforge.errors import InvalidInput

TEST_SHARE = 0.10
UNKNOWN_VERSION = "unknown"
"""Stands in a verifier's name where its version is not known yet."""


_ID = re.compile(r"\w[\w.:-]*")


class ShortRecord(Contract):
    """What a person has to write of a record. A step may be plain text."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: Annotated[str, Field(min_length=1)]
    answer: str | None = None
    steps: tuple[Step | Annotated[str, Field(min_length=1)], ...] = ()
    solution: str | None = None
    """In place of `steps`: their text, `N. **Title** action` a step. What does not conform is dropped and counted."""
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

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError(f"{prompt!r} has white space alone: give the problem's text")
        return prompt

    @field_validator("steps")
    @classmethod
    def _do_something(cls, steps: tuple[Step | str, ...]) -> tuple[Step | str, ...]:
        for number, step in enumerate(steps):
            action = step.action if isinstance(step, Step) else step
            if not action.strip():
                raise ValueError(f"step {number} (from 0) is {action!r}, white space alone: give its text, or no step")
        return steps

    @field_validator("id")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not _ID.fullmatch(name):
            raise ValueError(
                f"{name!r} is no id: use letters, digits, '_', '-', '.' and ':', beginning with a letter, a digit or "
                "'_', or leave it out"
            )
        return name

    @model_validator(mode="after")
    def _can_be_learnt_from(self) -> ShortRecord:
        if self.solution is not None and self.steps:
            raise ValueError("'solution' is the text of the steps: give it or 'steps', not both")
        if self.answer is None and not self.steps and self.solution is None and not self.scenario:
            raise ValueError("a record needs 'answer' or 'steps' (or a 'scenario' that its verifier reads)")
        return self

    def parsed(self) -> tuple[ShortRecord | None, Solution | None]:
        """The record with its solution's steps, and what was read of that.

        The record is None where its solution has no steps and there is nothing else to learn from.
        """
        if self.solution is None:
            return self, None
        solution = parse_solution(self.solution)
        idle = not solution.steps and (self.split in ("train", "corpus") or (self.answer is None and not self.scenario))
        # The id stays that of what was written: a parser that reads more must not rename the record.
        named = {"steps": solution.steps, "id": self.id or f"user-{digest(self)[:24]}"}
        return None if idle else self.model_copy(update=named), solution

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


def read_user_files(
    files: Iterable[RecordsFile], *, domain: str, verifier: str | None, solutions: list[Solution] | None = None
) -> list[Record]:
    """Every line of the files, validated. Raises InvalidInput naming file, line and field.

    `verifier` is the `name@version` that judges them: a record that names another is refused. With None that is not
    checked, and the records name an unknown version. What was read of solutions written as text goes to `solutions`;
    a record whose solution is all that it has, and has no steps, is left out.
    """
    records: list[Record] = []
    parsed: list[Solution] = [] if solutions is None else solutions
    seen: dict[str, str] = {}
    for file in files:
        for number, record in _read_file(file, domain=domain, verifier=verifier, solutions=parsed):
            where = f"{file.name} line {number}"
            if record.id in seen:
                raise InvalidInput(
                    f"{where}: field 'id': {record.id!r} is already the id of {seen[record.id]}; ids must differ "
                    "(records without an id have one id where they are equal: leave one out)"
                )
            seen[record.id] = where
            records.append(record)
    if not records and parsed:
        first = next((piece for solution in parsed for piece in solution.dropped), None)
        found = "" if first is None else f"; the first that was dropped ({first.why}): {first.text[:80]!r}"
        raise InvalidInput(f"none of the {len(parsed)} solutions has a step `1. **Title** action`{found}")
    if not records:
        raise InvalidInput("the records are empty: no *.jsonl file has a line. Give at least one record with a prompt")
    return records


def _read_file(
    file: RecordsFile, *, domain: str, verifier: str | None, solutions: list[Solution]
) -> Iterator[tuple[int, Record]]:
    judge = verifier or f"{domain}@{UNKNOWN_VERSION}"
    with file.path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file.name} line {number}"
            text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if not text:
                continue
            try:
                short = ShortRecord.model_validate(_object(text))
                kept, solution = short.parsed()
                if solution is not None:
                    solutions.append(solution)
                if kept is None:
                    continue
                record = kept.record(domain=domain, verifier=judge, file_sha256=file.sha256)
            except ValidationError as error:
                raise InvalidInput(f"{where}: {first_problem(error, fields=ShortRecord.model_fields)}") from error
            except _Unfit as error:
                raise InvalidInput(f"{where}: {error}") from error
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


# ── What JSON lets through and no record may have ────────────────────────────────────────────────


class _Unfit(ValueError):
    """JSON, but not what a record is made of."""


def _object(text: bytes) -> dict[str, Any]:
    """The object on a line. Raises ValueError where it is no JSON, _Unfit where it cannot be meant as it is read."""
    # NaN would be written as null further on: it is refused here.
    found = from_json(text, allow_inf_nan=False)
    if not isinstance(found, dict):
        kinds = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
        kind = kinds.get(type(found), "a number")
        raise _Unfit(f'a line must be an object, as in {{"prompt": ..., "answer": ...}}; this is {kind}')
    # Of two fields with one name either parser takes the last and says nothing.
    json.loads(text.decode(), object_pairs_hook=_once)
    _check_values(found, "")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unfit(f"field {twice!r}: given {names.count(twice)} times in one object: leave one")
    return found


def _check_values(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(inner, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_values(inner, f"{where}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _Unfit(f"field {where!r}: a number beyond 1.8e308 cannot be kept: write it as text, in quotes")
    elif isinstance(value, str) and "\0" in value:
        raise _Unfit(f"field {where!r}: its text has the character NUL (\\u0000): take it out")
