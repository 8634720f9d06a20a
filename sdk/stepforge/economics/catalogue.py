"""Base models that can be paid for: what they can, how they are tuned, what that costs, and until when.

The table that ships is `catalogue.toml`; each price has its unit, day, source and how far it can be trusted. A price
that nobody knows has no row, and asking for it is an error that says what to do: never zero.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from stepforge.contracts.base import Contract, first_problem
from stepforge.contracts.decisions import Method
from stepforge.errors import InvalidInput, UnknownName, UnknownPrice

STALE_DAYS = 120
Provider = Literal["openai", "azure", "vertex", "bedrock", "sagemaker", "anthropic", "own"]
Kind = Literal[
    "training_tokens",
    "training_hours",
    "training_job",
    "input",
    "cached_input",
    "output",
    "tuned_input",
    "tuned_output",
    "hosting",
    "storage",
]
TRAINING: tuple[Kind, ...] = ("training_tokens", "training_hours", "training_job")
"""Kinds of prices that a tune is charged by."""
Unit = Literal["1M tokens", "1K tokens", "hour", "month", "job"]
UNITS: dict[Kind, tuple[Unit, ...]] = {
    "training_hours": ("hour",),
    "training_job": ("job",),
    "hosting": ("hour",),
    "storage": ("month",),
    **{kind: ("1M tokens", "1K tokens") for kind in get_args(Kind) if "put" in kind or kind == "training_tokens"},
}
TOKENS_IN: dict[str, int] = {"1M tokens": 1_000_000, "1K tokens": 1_000}
Confidence = Literal["documented", "secondary", "unverified", "given"]
"""`documented`: the vendor's own page or price list; `secondary`: someone who read it; `given`: by the user."""


class ModelPrice(Contract):
    """One price, and where it comes from."""

    kind: Kind
    method: Method | None = None
    """Where the price holds for one method of tuning alone."""
    usd: Annotated[Decimal, Field(gt=0, le=1_000_000)]
    unit: Unit
    as_of: date
    source: Annotated[str, Field(min_length=8)]
    confidence: Confidence = "given"
    match: dict[str, str] = {}
    """Attributes of the product in AWS's price list, where it can be refreshed from there."""
    teacher: TeacherPrices | None = None
    """Of a distillation, whose teacher is charged for its responses beside the training."""

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.unit not in UNITS[self.kind]:
            raise ValueError(f"a price of {self.kind} is per {' or '.join(UNITS[self.kind])}, not per {self.unit}")
        if self.teacher is not None and self.kind not in TRAINING:
            raise ValueError(f"a teacher belongs to the price of a training, not to one of {self.kind}: leave it out")
        return self

    @property
    def usd_each(self) -> Decimal:
        """Per token, hour, month or job."""
        return self.usd / TOKENS_IN.get(self.unit, 1)

    def stale(self, today: date, days: int = STALE_DAYS) -> bool:
        return (today - self.as_of).days > days


class TeacherPrices(Contract):
    """What the responses of a distillation's teacher are charged by: its own inference."""

    model: Annotated[str, Field(min_length=1)]
    """As the provider's API calls it."""
    input: ModelPrice
    output: ModelPrice

    @model_validator(mode="after")
    def _kinds(self) -> Self:
        if (self.input.kind, self.output.kind) != ("input", "output"):
            raise ValueError(f"a teacher has prices of input and output, not {self.input.kind} and {self.output.kind}")
        return self


ModelPrice.model_rebuild()


class Limits(Contract):
    """What a provider takes. None: not known."""

    examples_min: int | None = None
    examples_max: int | None = None
    file_bytes_max: int | None = None
    example_tokens_max: int | None = None
    validation_examples_max: int | None = None
    epochs_max: int | None = None


ModelId = Annotated[str, Field(pattern=r"^[a-z]+/[A-Za-z0-9.:_@/-]+$")]


class ModelRow(Contract):
    """One base model at one provider."""

    id: ModelId
    """`provider/model`, the model as the provider's API calls it."""
    provider: Provider
    capabilities: tuple[Literal["text", "images", "audio", "video", "tools", "reasoning"], ...] = ("text",)
    tunable: tuple[Method, ...] = ()
    context_tokens: int | None = None
    limits: Limits = Limits()
    prices: tuple[ModelPrice, ...] = ()
    launches_until: date | None = None
    """The last day on which a tune can be launched."""
    shuts_down: date | None = None
    """The first day on which it no longer answers."""
    not_before: date | None = None
    """The vendor's promise that it does not shut down before this day, where no shutdown is announced."""
    as_of: date
    """On which this row was checked."""
    source: Annotated[str, Field(min_length=8)]
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.id.startswith(f"{self.provider}/"):
            raise ValueError(f"the id {self.id!r} does not begin with the provider, {self.provider}/")
        keys = [(price.kind, price.method) for price in self.prices]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{self.id}: two prices of {twice[0][0]} for {twice[0][1] or 'all methods'}: keep one")
        if self.launches_until and self.shuts_down and self.launches_until > self.shuts_down:
            raise ValueError(f"{self.id}: launches_until {self.launches_until} is after shuts_down {self.shuts_down}")
        return self


class Pairs(Contract):
    """Each of these teachers may teach each of these students, says the provider."""

    students: Annotated[tuple[ModelId, ...], Field(min_length=1)]
    teachers: Annotated[tuple[ModelId, ...], Field(min_length=1)]
    as_of: date
    source: Annotated[str, Field(min_length=8)]
    confidence: Confidence = "given"
    note: str = ""

    @model_validator(mode="after")
    def _one_provider(self) -> Self:
        if len(found := {model.partition("/")[0] for model in (*self.students, *self.teachers)}) > 1:
            raise ValueError(f"teachers and students are of one provider, not of {' and '.join(sorted(found))}")
        if both := set(self.students) & set(self.teachers):
            raise ValueError(f"{min(both)} is its own teacher: list it on one side")
        return self


class _File(Contract):
    version: Literal[1]
    models: tuple[ModelRow, ...] = ()
    pairs: tuple[Pairs, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """Rows by id.

    >>> catalogue = Catalogue.load()
    >>> catalogue.price("bedrock/amazon.nova-micro-v1:0", "training_tokens").usd
    Decimal('0.001')
    """

    rows: dict[str, ModelRow]
    pairs: tuple[Pairs, ...] = ()
    """Who may teach whom in a distillation."""

    @classmethod
    def load(cls, *more: Path) -> Catalogue:
        """What ships, with the user's own files over it: a row of theirs replaces the row of the same id, and their
        pairs of teachers and students stand beside those that ship.

        Raises InvalidInput for a file that cannot be read, with the field, and for a pair of a model without a row.
        """
        found = _shipped()
        for path in more:
            own = _read(path.read_text(encoding="utf-8"), str(path))
            found = _checked(cls({**found.rows, **own.rows}, found.pairs + own.pairs), str(path))
        return cls(dict(found.rows), found.pairs)

    def row(self, model: str) -> ModelRow:
        """Raises UnknownName for a model that has no row."""
        if model not in self.rows:
            raise UnknownName("model of the catalogue", model, self.rows)
        return self.rows[model]

    def price(self, model: str, kind: Kind, *, method: Method | None = None) -> ModelPrice:
        """The price for this method, or the one for all. Raises UnknownPrice, with what to do, where there is none."""
        row = self.row(model)
        found = {price.method: price for price in row.prices if price.kind == kind}
        price = found.get(method) or found.get(None)
        if price is None:
            known = ", ".join(sorted({price.kind for price in row.prices})) or "none"
            raise UnknownPrice(
                f"no price of {kind} is known for {model!r}{f' by {method}' if method else ''} (known: {known}). Read "
                f"it from the provider's price page and give it: in the question (training_usd, request_usd), or as a "
                f"row of your own catalogue file with value, unit, day and source"
            )
        return price

    def taught_by(self, student: str) -> dict[str, Pairs]:
        """The teachers that may teach a student, each with who says so. The newest statement counts."""
        found = sorted((pairs for pairs in self.pairs if student in pairs.students), key=lambda pairs: pairs.as_of)
        return {teacher: pairs for pairs in found for teacher in pairs.teachers}

    def pair(self, student: str, teacher: str | None) -> Pairs:
        """Who says that this teacher may teach this student. Raises InvalidInput, with what to do, where nobody does.

        `teacher` is a row's id, or how the provider's API calls it: an ARN, or an inference profile of Bedrock.
        """
        known = self.taught_by(student)
        named = None if teacher is None else teacher_row(student, teacher)
        if named in known:
            return known[named]
        about = "a distillation needs a teacher" if named is None else f"{named} is not known to teach {student}"
        ways = f"the catalogue knows {', '.join(known)}" if known else f"the catalogue knows no teacher of {student}"
        raise InvalidInput(
            f"{about}: {ways}. Where the provider's documentation names the pair, give it as [[pairs]] (students, "
            "teachers, as_of, source) in a catalogue file of your own"
        )

    def refusals(self, model: str, method: Method, today: date, *, teacher: str | None = None) -> list[str]:
        """Why a tune of this model by this method, for a distillation from this teacher, cannot be launched today."""
        row = self.row(model)
        if method in ("prompt", "own"):
            return []
        reasons = []
        known = "managed" in row.tunable if method == "managed" else method in row.tunable
        if not known:
            ways = ", ".join(row.tunable) or "no method"
            reasons.append(f"{model} cannot be tuned by {method}: the catalogue knows {ways} (as of {row.as_of})")
        if row.launches_until is not None and row.launches_until < today:
            reasons.append(f"{row.provider} takes no new tunes of {model} since {row.launches_until}")
        if known and method == "distillation":
            reasons += self._teacher_refusals(model, teacher, today)
        return reasons

    def _teacher_refusals(self, student: str, teacher: str | None, today: date) -> list[str]:
        try:
            self.pair(student, teacher)
        except InvalidInput as error:
            return [str(error)]
        assert teacher is not None
        named = teacher_row(student, teacher)
        ends = self.row(named).shuts_down
        if ends is None or ends > today:
            return []
        left = [one for one in self.taught_by(student) if (end := self.row(one).shuts_down) is None or end > today]
        return [
            f"its teacher {named} shut down on {ends}, and {', '.join(left) or 'no other'} is left to teach {student}"
        ]

    def stale(self, today: date, days: int = STALE_DAYS) -> list[str]:
        """A line for each price and row that is older than `days`."""
        lines = []
        for row in self.rows.values():
            old = [price for price in row.prices if price.stale(today, days)]
            lines += [f"{row.id}: the price of {price.kind} is of {price.as_of}" for price in old]
            if (today - row.as_of).days > days:
                lines.append(f"{row.id}: was checked on {row.as_of}")
        return lines

    def with_prices(self, prices: Iterable[tuple[str, ModelPrice]]) -> Catalogue:
        """With these prices in the place of the older ones of the same kind and method; a newer one stays.

        Raises UnknownName for a model that has no row.
        """
        rows = dict(self.rows)
        for model, new in prices:
            row = rows.get(model) or self.row(model)
            same = [old for old in row.prices if (old.kind, old.method) == (new.kind, new.method)]
            if same and same[0].as_of > new.as_of:
                continue
            kept = tuple(old for old in row.prices if (old.kind, old.method) != (new.kind, new.method))
            rows[model] = row.model_copy(update={"prices": (*kept, new)})
        return replace(self, rows=rows)

    def refreshed(
        self, look_up: Callable[[dict[str, str]], Decimal | None], today: date
    ) -> tuple[Catalogue, list[str]]:
        """Ask for every price that says how it is found, and what was not found.

        `look_up` takes the attributes of a product in a price list and returns its price in the row's unit, or None:
        see `price_list`.
        """
        fresh, missing = [], []
        for row in self.rows.values():
            for price in row.prices:
                if not price.match:
                    missing.append(
                        f"{row.id}: {price.kind} is in no price list that can be asked; it is of {price.as_of}"
                    )
                    continue
                usd = look_up(price.match)
                if usd is None or usd <= 0:
                    missing.append(f"{row.id}: {price.kind} was not found by {price.match}; it is of {price.as_of}")
                    continue
                update = {"usd": usd, "as_of": today, "source": "AWS Price List API", "confidence": "documented"}
                fresh.append((row.id, price.model_copy(update=update)))
        return self.with_prices(fresh), missing


_PROFILE = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|global)\.(?=[a-z0-9-]+\.)")


def teacher_row(student: str, teacher: str) -> str:
    """The id of the row that a teacher of this student has, however the provider's API is told of it.

    >>> teacher_row("bedrock/amazon.nova-micro-v1:0", "us.amazon.nova-pro-v1:0")
    'bedrock/amazon.nova-pro-v1:0'
    """
    provider = student.partition("/")[0]
    if provider == "bedrock":
        teacher = teacher.removeprefix("bedrock/")
        if teacher.startswith("arn:"):
            teacher = teacher.rpartition("/")[2]
        teacher = _PROFILE.sub("", teacher)
    return teacher if teacher.startswith(f"{provider}/") else f"{provider}/{teacher}"


@cache
def _shipped() -> Catalogue:
    text = files("stepforge.economics").joinpath("catalogue.toml").read_text(encoding="utf-8")
    name = "catalogue.toml of stepforge"
    return _checked(_read(text, name), name)


def _checked(catalogue: Catalogue, name: str) -> Catalogue:
    """Raises InvalidInput where a pair names a model that has no row, or a student that is not tuned so."""
    for pairs in catalogue.pairs:
        for model in (*pairs.students, *pairs.teachers):
            if model not in catalogue.rows:
                raise InvalidInput(
                    f"{name!r} pairs {model!r}, which has no row: add one, its end and prices stand there"
                )
        for model in pairs.students:
            if "distillation" not in catalogue.rows[model].tunable:
                raise InvalidInput(f"{name!r} has {model!r} as a student, but its row is not tunable by distillation")
    return catalogue


def _read(text: str, name: str) -> Catalogue:
    try:
        found = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name!r} is no TOML: {error}") from error
    except ValidationError as error:
        raise InvalidInput(f"{name!r} is no catalogue: {first_problem(error)}") from error
    ids = [row.id for row in found.models]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise InvalidInput(f"{name!r} has {twice[0]!r} twice: keep one row")
    return Catalogue({row.id: row for row in found.models}, found.pairs)


def warnings_of(catalogue: Catalogue, models: Sequence[str], today: date) -> tuple[str, ...]:
    """What to know before trusting the prices of these models: stale rows, and prices that nobody verified."""
    only = Catalogue({model: catalogue.row(model) for model in models})
    weak = [
        f"{row.id}: the price of {price.kind} is {price.confidence} ({price.source})"
        for row in only.rows.values()
        for price in row.prices
        if price.confidence in ("secondary", "unverified")
    ]
    return (*(f"stale: {line}" for line in only.stale(today)), *weak)
