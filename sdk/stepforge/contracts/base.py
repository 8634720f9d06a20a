"""The base of every contract, canonical JSON and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
S3Uri = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$")]


class Contract(BaseModel):
    """Frozen, closed to fields that it does not name, and without infinities: canonical JSON has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, UTF-8, no NaN.

    A contract is dumped with its defaults, so a default that changes changes the identity of what relied on it.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def refuse_unread(given: BaseModel, unread: Mapping[str, str]) -> None:
    """Raises ValueError for a field that differs from its default although nothing reads it; `unread` says why not.

    Whoever sets it expects an effect, and would take its absence for a finding.
    """
    for name, why in unread.items():
        value = getattr(given, name)
        if value != type(given).model_fields[name].default:
            raise ValueError(f"{name} {value!r} changes nothing {why}: leave {name} out")


def first_problem(error: ValidationError, *, fields: Iterable[str] = ()) -> str:
    """The first problem of a validation: its field and what is wrong with it. `fields` are those of the top level.

    A field that does not exist comes first: what is missing beside it is often the same field, misspelt.
    """
    problems = error.errors(include_url=False, include_input=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = no_such_field(str(first["loc"][-1]), fields if len(first["loc"]) == 1 else ())
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"field {where!r}: {message}{more}" if where else f"{message}{more}"


def no_such_field(given: str, fields: Iterable[str]) -> str:
    """What is said of a field that is none of `fields`; nothing is listed where they are not known."""
    known = sorted(fields)
    near = get_close_matches(given, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "." if known else ""
    return f"no such field{hint}" + (f" There are: {', '.join(known)}" if known else "")
