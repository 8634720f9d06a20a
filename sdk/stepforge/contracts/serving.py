"""What serves, and what it takes and answers, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.rewards import Verdict

ServeMode = Literal["realtime", "async", "components"]
"""`realtime`: an answer within a minute. `async`: requests and answers lie in the bucket, and an answer may take an
hour. `components`: as `realtime`, but candidate and champion share the instances of one endpoint."""


VARIANT = "main"
"""The one production variant of every endpoint."""


ALARM_SECONDS = 60
"""The period of an endpoint's alarm: what turns back a new version that answers with errors."""


def dimensions(endpoint: str, mode: ServeMode) -> dict[str, str]:
    """Of CloudWatch's metrics of what answers behind the name `endpoint`."""
    if mode == "components":
        return {"InferenceComponentName": endpoint}
    return {"EndpointName": endpoint, "VariantName": VARIANT}


class Answers(Contract):
    """Where an asynchronous endpoint writes, how much it does at once, and whom it tells."""

    bucket: str
    max_concurrent: Annotated[int, Field(ge=1, le=1000)] = 4
    """Requests that an instance works on."""
    success_topic: str | None = None
    error_topic: str | None = None


class Share(Contract):
    """What one copy of a model takes of an instance, as an inference component."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    accelerators: Annotated[float, Field(ge=0)] = 0.0
    """GPUs, or parts of one."""
    memory_mb: Annotated[int, Field(ge=128)] = 2048


class Fleet(Contract):
    """What the models of an environment are served by."""

    instance_type: str
    instances: Annotated[int, Field(ge=1)] = 1
    mode: ServeMode = "realtime"
    answers: Answers | None = None
    """Of `async` alone."""
    share: Share | None = None
    """Of `components` alone."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.answers is None) == (self.mode == "async") or (self.share is None) == (self.mode == "components"):
            raise ValueError(f"mode {self.mode!r} does not go with these: async has answers, components a share")
        return self


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
