"""What comes back from a provider: jobs in normalised states, estimates, tuned models, completions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stepforge.contracts.base import Contract
from stepforge.economics import bills
from stepforge.economics.catalogue import ModelPrice, Provider
from stepforge.economics.tokens import TokenCount
from stepforge.errors import InvalidInput, ProviderRefused, UnknownPrice
from stepforge.finetune.keys import without
from stepforge.finetune.spec import ProviderName, Teacher, TokenRange, TuneSpec

FAKE_MARK = "localfake"
"""In every id that a local server of ours gives out. No provider has such ids."""


class State(StrEnum):
    """`UNKNOWN` is a state that we have no name for: not an end, because a job that goes on is still charged."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED)


def normalise(raw: str, table: Mapping[str, State]) -> State:
    """The state that a provider's word means; UNKNOWN, and so not terminal, for a word that is not in the table.

    >>> normalise("paused_for_review", {"running": State.RUNNING}).terminal
    False
    """
    return table.get(raw, State.UNKNOWN)


def _clean(words: str) -> str:
    return without(" ".join(words.split()), ())[:300]


class Job(Contract):
    """One job at a provider."""

    provider: ProviderName
    id: Annotated[str, Field(min_length=1)]
    key: str | None = None
    """Ours, as the provider gave it back; None where the job is someone else's."""
    state: State
    raw_state: str
    """The provider's own word."""
    base_model: str = ""
    model: str | None = None
    """The tuned model, once there is one."""
    created_at: datetime | None = None
    billable_tokens: Annotated[int, Field(ge=0)] | None = None
    cost_usd: Annotated[Decimal, Field(ge=0)] | None = None
    """Of an ended job, where it is known without a price."""
    error: Annotated[str, AfterValidator(_clean)] | None = None
    """The provider's own words. They may quote a line of the data: they go into the ledger, and into no log."""

    @property
    def local_fake(self) -> bool:
        """Whether a local server made it: then nothing was trained and nothing was charged."""
        return FAKE_MARK in self.id


def model_of(job: Job) -> str:
    """The model of a job that has succeeded. Raises ProviderRefused where there is none."""
    if job.state != State.SUCCEEDED or job.model is None:
        raise ProviderRefused(f"job {job.id} has no model, it is {job.raw_state!r}: watch it until it has succeeded")
    return job.model


class Prepared(Contract):
    """Where the provider has the data. Uploads are not charged, and repeating one changes nothing."""

    training: str
    """A file's id or address."""
    validation: str | None = None


class Tuned(Contract):
    """A tuned model that can be asked."""

    provider: ProviderName
    job_id: str
    model: str
    """What is deleted."""
    handle: str
    """What is called: the model, an endpoint or a deployment."""

    @property
    def local_fake(self) -> bool:
        return FAKE_MARK in self.model


class Message(Contract):
    role: Literal["system", "user", "assistant"]
    content: str


class Completion(Contract):
    text: str
    model: str
    input_tokens: Annotated[int, Field(ge=0)]
    output_tokens: Annotated[int, Field(ge=0)]


class Estimate(Contract):
    """What a launch will cost, in US dollars. Budgets are held against `high_usd`."""

    low_usd: Annotated[Decimal, Field(ge=0)]
    expected_usd: Annotated[Decimal, Field(ge=0)] | None = None
    """What the bill is expected to say, where records were counted by the provider's counter, or hours are known to be
    so many; None: nothing but the range is known, and its middle means nothing."""
    high_usd: Annotated[Decimal, Field(ge=0)]
    tokens: TokenRange
    """Training tokens over all epochs."""
    price: ModelPrice


def estimate(
    spec: TuneSpec,
    price: ModelPrice,
    *,
    hours: tuple[Decimal, Decimal] | None = None,
    charged_by: Provider | None = None,
) -> Estimate:
    """Cost of a spec at a price: tokens x epochs, hours (a range that the caller has to give), or a flat price.

    `charged_by` is who writes the bill (`bills.RULES`), where that is not the provider of the spec: Azure speaks the
    protocol of OpenAI. A distillation costs what its teacher says beside the training, and more pairs where the
    provider adds some. The ends of each item are rounded to the cent, away from the middle: what may cost something is
    never free, and no bill's rounding is above the upper end.
    Raises InvalidInput where an hourly price comes without hours, and for a price of anything but training;
    UnknownPrice where a distillation's price has no rates of its teacher.
    """
    if spec.teacher is not None:
        return _distillation(spec, spec.teacher, price)
    epochs, said = spec.hyperparameters.epochs, spec.training.tokens
    if price.kind == "training_hours":
        fewest, most = _hours(spec, price, hours)
        low, high = (bills.by_hours(charged_by or spec.provider, each, price) for each in (fewest, most))
        expected = low.usd if fewest == most else None
    elif price.kind == "training_job":
        low = high = bills.by_job(price)
        expected = low.usd
    elif price.kind == "training_tokens":
        low = high = bills.by_tokens(_count(said), epochs, price)
        expected = None if said.expected is None else low.usd
    else:
        raise InvalidInput(f"a price of {price.kind} was given for training: give one of training_tokens, hours or job")
    total = TokenRange(
        low=said.low * epochs,
        expected=None if said.expected is None else said.expected * epochs,
        high=said.high * epochs,
        method=f"{said.method} x {epochs} epochs",
    )
    return Estimate(low_usd=low.low_usd, expected_usd=expected, high_usd=high.high_usd, tokens=total, price=price)


def _hours(spec: TuneSpec, price: ModelPrice, hours: tuple[Decimal, Decimal] | None) -> tuple[Decimal, Decimal]:
    if hours is None:
        raise InvalidInput(
            f"{spec.base_model!r} is charged by the hour ({price.usd} USD): say how long, as hours=(2, 5)"
        )
    if not 0 < hours[0] <= hours[1]:
        raise InvalidInput(f"hours {tuple(map(str, hours))}: give the fewest and the most, both above 0, as (2, 5)")
    return hours


def _count(said: TokenRange) -> TokenCount:
    """Where nothing was counted the fewest stand for the middle, which then nobody reads."""
    return TokenCount(said.low, said.low if said.expected is None else said.expected, said.high, said.method)


def _distillation(spec: TuneSpec, teacher: Teacher, price: ModelPrice) -> Estimate:
    """The teacher asked once a row to as often as the provider may, each response between a token and the most that
    it may have; the training on both. Nobody knows beforehand what the teacher will say, so there is no middle."""
    if price.kind != "training_tokens":
        raise InvalidInput(f"a price of {price.kind} was given for a distillation: give one of training_tokens")
    if price.teacher is None:
        raise UnknownPrice(bills.NO_RATES)
    if price.teacher.model != teacher.model:
        raise InvalidInput(
            f"the price has the rates of {price.teacher.model!r}, but the teacher is {teacher.model!r}: give its rates"
        )
    said, rows = spec.training.tokens, spec.training.rows
    one_each = (
        _count(said),
        TokenCount(rows, rows, rows * teacher.max_response_tokens, f"1 to {teacher.max_response_tokens:,} a response"),
    )
    prompts, responses = (bills.synthesised(spec.provider, count, rows) for count in one_each)
    fewest, most = bills.epochs_of(spec.provider, spec.hyperparameters.epochs)
    low, high = (bills.distillation(prompts, responses, epochs, price) for epochs in (fewest, most))
    both = prompts.plus(responses)
    tokens = TokenRange(
        low=both.low * fewest, high=both.high * most, method=f"{both.method}; {fewest} to {most} epochs"
    )
    return Estimate(low_usd=low.low_usd, high_usd=high.high_usd, tokens=tokens, price=price)
