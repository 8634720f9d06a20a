"""The one protocol that every provider of paid fine-tunes is spoken to with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Protocol, runtime_checkable

from stepforge.economics.catalogue import ModelPrice
from stepforge.finetune.job import Completion, Estimate, Job, Message, Prepared, Tuned
from stepforge.finetune.spec import ProviderName, TuneSpec


@runtime_checkable
class Labels(Protocol):
    """A provider with a model registry of its own, in which a model can say where it comes from."""

    def label(self, tuned: Tuned, labels: Mapping[str, str]) -> None:
        """Add labels; twice is once."""
        ...


@runtime_checkable
class ChecksServing(Protocol):
    """A provider that tunes some models which it does not serve as they come."""

    def check_serving(self, spec: TuneSpec) -> None:
        """Raises InvalidInput where a model of this spec would not answer. Sends nothing."""
        ...


@runtime_checkable
class Deployed(ChecksServing, Protocol):
    """A provider whose models answer only on an endpoint, which is charged by the hour for as long as it is there."""

    def deploy(self, job_id: str, *, trial: bool, tags: Mapping[str, str]) -> Tuned:
        """The model on an endpoint, which is made where there is none. Raises NotReady while it comes up.

        With `trial` the endpoint is one of its own, for an evaluation. `tags`: by which the bill knows it.
        """
        ...

    def undeploy(self, job_id: str, *, trial: bool) -> None:
        """Remove the endpoint, and with it its charge. Twice is no error."""
        ...


@runtime_checkable
class Provider(Protocol):
    """Every method raises ProviderRefused where the provider said no and did nothing, Throttled where it asks to come
    back later (and did nothing), and ProviderUnavailable where it is not known what was done."""

    name: ProviderName
    target: str
    """The account that pays, in words: part of a launch's identity. Never a key."""
    local: bool
    """Whether it is a local server that trains nothing."""
    remembers_seconds: float
    """For how long after a lost answer a job may still appear in `find`. 0 where a second `launch` with the same key
    is the same job by the provider's own promise."""

    def validate(self, spec: TuneSpec) -> None:
        """Raises InvalidInput or ModelGone where the provider would not take it. Sends nothing."""
        ...

    def estimate(self, spec: TuneSpec, price: ModelPrice, *, hours: tuple[Decimal, Decimal] | None = None) -> Estimate:
        """What it will cost. Sends nothing."""
        ...

    def prepare(self, spec: TuneSpec, folder: Path) -> Prepared:
        """Upload the data below `folder`, after a look at its digest. Twice is once; nothing is charged."""
        ...

    def find(self, key: str, prepared: Prepared) -> Job | None:
        """The job that was launched with this key. None where there is none (yet)."""
        ...

    def launch(self, spec: TuneSpec, prepared: Prepared, *, key: str) -> Job:
        """The one call that costs money: sent at most once, never retried within. Call `launching.launch` instead."""
        ...

    def status(self, job_id: str) -> Job: ...

    def cancel(self, job_id: str) -> Job:
        """Stop the training, and with it the charge. What has ended stays as it ended."""
        ...

    def retrieve(self, job_id: str) -> Tuned:
        """The tuned model, ready to be called. Raises ProviderRefused while there is none."""
        ...

    def invoke(
        self, tuned: Tuned, messages: Sequence[Message], *, max_tokens: int, temperature: float | None = None
    ) -> Completion:
        """One answer. Without a temperature the provider's own holds; some reasoning models take no other."""
        ...

    def delete(self, tuned: Tuned) -> None:
        """Delete the tuned model, and stop what is charged for keeping it. Deleting twice is not an error."""
        ...
