"""Which optimiser searches a prompt, and its settings: part of what is launched, so another one is another launch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stepforge.contracts.base import Contract
from stepforge.finetune.addresses import Secrets
from stepforge.finetune.keys import is_loopback
from stepforge.finetune.metering import Meter, Metered, TokenPrices

if TYPE_CHECKING:
    from stepforge.finetune.prompts import Search


class GepaOptimiser(Contract):
    """Reflects on wrong answers and keeps a front of prompts."""

    type: Literal["gepa"] = "gepa"
    max_metric_calls: Annotated[int, Field(ge=1)] = 200
    """Answers that it may have judged."""


class DspyOptimiser(Contract):
    """COPRO: instructions from those that were tried, and their scores."""

    type: Literal["dspy"]
    breadth: Annotated[int, Field(ge=2, le=20)] = 4
    """Instructions a round, each scored on all training examples."""
    depth: Annotated[int, Field(ge=1, le=10)] = 2
    """Rounds."""
    validated: Annotated[int, Field(ge=1, le=20)] = 3
    """How many of its best are scored on the validation examples."""


class BedrockOptimiser(Contract):
    """Bedrock's OptimizePrompt rewrites the prompt. Credentials are the session's; the prompt is sent to AWS."""

    type: Literal["bedrock"]
    target_model_id: Annotated[str, Field(min_length=1, max_length=2048)]
    """For which model, as Bedrock names it."""
    token_usd: Annotated[Decimal, Field(gt=0)]
    """For a million tokens of both prompts together: look it up."""
    as_of: date
    source: str
    """Where the rate is from."""
    times: Annotated[int, Field(ge=1, le=10)] = 1
    """How often it is rewritten, each time from the last prompt that was no worse."""
    region: str | None = None
    endpoint_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_a_price(cls, given: Any) -> Any:
        if isinstance(given, dict) and "token_usd" not in given:
            raise ValueError(
                "no page that we could read says what OptimizePrompt costs: give token_usd (for a million tokens of "
                "both prompts), as_of and source, from AWS's price page or your bill"
            )
        return given

    @field_validator("endpoint_url")
    @classmethod
    def _is_local(cls, url: str | None) -> str | None:
        """What is signed with an environment's own credentials goes to AWS, and not where a request says."""
        if url is not None and not is_loopback(url):
            raise ValueError("endpoint_url is for a local server: leave it out, and AWS itself is asked")
        return url

    @property
    def prices(self) -> TokenPrices:
        return TokenPrices(input_usd=self.token_usd, output_usd=self.token_usd)


class VertexOptimiser(Contract):
    """Vertex's zero-shot optimiser rewrites the prompt, which is sent to Google."""

    type: Literal["vertex"]
    project: Annotated[str, Field(min_length=1)]
    location: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    token_usd: Annotated[Decimal, Field(gt=0)]
    """For a million tokens of both prompts together. No page of Google's says it: see what you are charged."""
    as_of: date
    source: str
    """Where the rate is from."""
    times: Annotated[int, Field(ge=1, le=10)] = 1
    """How often the best prompt so far is rewritten."""
    credentials_secret: str | None = None
    """Secret with the JSON of a service account or of a workload identity federation, for the state machine."""
    base_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_a_price(cls, given: Any) -> Any:
        if isinstance(given, dict) and "token_usd" not in given:
            raise ValueError(
                "no page says what Vertex's zero-shot optimiser costs: give token_usd (for a million tokens of both "
                "prompts), as_of and source, of your bill or your contract"
            )
        return given

    @field_validator("base_url")
    @classmethod
    def _is_local(cls, url: str | None) -> str | None:
        if url is not None and not is_loopback(url):
            raise ValueError("base_url is for a local server: leave it out, and Google itself is asked")
        return url

    @property
    def prices(self) -> TokenPrices:
        return TokenPrices(input_usd=self.token_usd, output_usd=self.token_usd)

    def lacks_secret(self) -> bool:
        """Whether the state machine would find no credentials."""
        return self.credentials_secret is None and self.base_url is None


Optimiser = Annotated[GepaOptimiser | DspyOptimiser | BedrockOptimiser | VertexOptimiser, Field(discriminator="type")]
Rewriter = BedrockOptimiser | VertexOptimiser
"""Optimisers that ask a service of its own rates."""


def search_of(
    optimiser: Optimiser, meter: Meter, written: Callable[[Metered], Metered], *, secrets: Secrets | None = None
) -> Search:
    """The search that these settings stand for; `written` keeps what a service is asked, `secrets` has its credentials.

    Raises MissingExtra where its package is missing, InvalidInput without credentials.
    """
    if isinstance(optimiser, GepaOptimiser):
        from stepforge.finetune.searches.gepa import Gepa

        return Gepa(max_metric_calls=optimiser.max_metric_calls)
    if isinstance(optimiser, DspyOptimiser):
        from stepforge.finetune.searches.dspy import Copro

        return Copro(breadth=optimiser.breadth, depth=optimiser.depth, validated=optimiser.validated)
    from stepforge.finetune.searches.rewriting import BedrockRewriter, Rewriting

    if isinstance(optimiser, VertexOptimiser):
        from stepforge.finetune.searches.vertex import VertexRewriter
        from stepforge.finetune.vertex_calls import credentials_of

        rewriter = VertexRewriter(
            meter.at(optimiser.prices),
            project=optimiser.project,
            location=optimiser.location,
            credentials=credentials_of(secrets, optimiser.credentials_secret, base_url=optimiser.base_url),
            base_url=optimiser.base_url,
        )
        return Rewriting(written(rewriter), times=optimiser.times)
    from stepforge.finetune.aws import session_for

    session = session_for(optimiser.region, optimiser.endpoint_url)
    given = BedrockRewriter(
        session, optimiser.target_model_id, meter.at(optimiser.prices), endpoint_url=optimiser.endpoint_url
    )
    return Rewriting(written(given), times=optimiser.times)
