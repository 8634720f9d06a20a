"""What InvokeEndpoint takes and answers, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.rewards import Verdict


class Prompt(Contract):
    prompt: Annotated[str, Field(min_length=1)]


class InvokeRequest(Contract):
    """A completion of each prompt; greedy at temperature 0."""

    records: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=256)]
    max_new_tokens: Annotated[int, Field(gt=0, le=4096)] = 64
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    export: str | None = None
    """Format in which answers that pass the domain's rules come back as well, such as `arkit-json`."""


class Exported(Contract):
    """A completion in the format that was asked for, or why the rules refuse it."""

    content: str | None = None
    refusal: str = ""


class InvokeResponse(Contract):
    model_sha256: Sha256
    """Digest of the manifest of the weights that answered."""
    completions: tuple[str, ...]
    """One for each prompt, in order."""
    exports: tuple[Exported, ...] = ()
    """One for each completion where a format was asked for."""
    verdicts: tuple[Verdict, ...] = ()
    """One for each completion where the domain can tell the problem from its prompt; none where it cannot."""
    readings: tuple[str, ...] = ()
    """Problem and completion in words, lines for people; one for each of `verdicts`."""
