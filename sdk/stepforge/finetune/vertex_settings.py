"""How Vertex's data-driven prompt optimiser is run: `[provider.prompts]` of a plan. Loads no client."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract
from stepforge.economics.catalogue import ModelPrice

IMAGE = "us-docker.pkg.dev/vertex-ai/cair/vaipo:preview_v1_0"
"""What google-cloud-aiplatform 2.7 runs for VAPO."""
IMAGES = r"^us-docker\.pkg\.dev/vertex-ai(/cair/vaipo|-restricted/builtin-algorithm/apd):[\w.-]+$"
Metric = Literal[
    "question_answering_correctness", "exact_match", "bleu", "rouge_1", "rouge_2", "rouge_l", "custom_metric"
]
Usd = Annotated[Decimal, Field(gt=0)]


class DataDriven(Contract):
    """How the optimiser is run, and what it may cost: no page says a price, so all rates are the plan's own."""

    service_account: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.gserviceaccount\.com$")]
    """Whom the job runs as: it calls Gemini, and reads and writes the folder."""
    job_usd: Usd
    """The most that the job itself may cost: its machine, and Gemini's tokens in it, which nobody can meter."""
    scoring_usd: Usd
    """The most that scoring its candidates may cost; no call goes beyond."""
    input_usd: Usd
    """Of the target model, for a million tokens, as `output_usd`."""
    output_usd: Usd
    as_of: date
    source: str
    most_hours: Annotated[Decimal, Field(gt=0, le=48)] = Decimal(6)
    """After these Vertex ends the job, and with it the machine's charge."""
    metric: Metric = "question_answering_correctness"
    """By which the optimiser itself judges. `custom_metric` calls a Cloud Run function of yours."""
    metric_function: str | None = None
    metric_name: str | None = None
    steps: Annotated[int, Field(ge=10, le=20)] = 10
    data_limit: Annotated[int, Field(ge=5, le=100)] = 100
    """Samples that each candidate is tried on, at most."""
    qps: Annotated[float, Field(ge=3)] = 3.0
    """Calls of the target model a second; the quota has to allow it."""
    candidates: Annotated[int, Field(ge=1, le=20)] = 4
    """How many of the optimiser's best are scored here."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Of one answer, where candidates are scored."""
    machine_type: str = "n1-standard-4"
    image: Annotated[str, Field(pattern=IMAGES)] = IMAGE
    """Of the optimiser's own: a plan may be another's, and whatever it names runs as the service account."""
    verifier: str | None = None
    """Your own, as `package.module:function`, in the place of the domain's; not in the state machine."""

    @model_validator(mode="before")
    @classmethod
    def _has_prices(cls, given: Any) -> Any:
        if isinstance(given, dict) and "job_usd" not in given:
            raise ValueError(
                "what the optimiser's job costs is not published as one price: give job_usd, the most that its machine "
                "and Gemini's tokens in it may cost, with as_of and source (docs/finetune-vertex.md says what adds up)"
            )
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> DataDriven:
        own = self.metric == "custom_metric"
        if own != (self.metric_function is not None) or own != (self.metric_name is not None):
            raise ValueError("metric 'custom_metric' needs metric_function and metric_name, and no other has them")
        return self

    def price(self) -> ModelPrice:
        usd = self.job_usd + self.scoring_usd
        return ModelPrice(
            kind="training_job", usd=usd, unit="job", as_of=self.as_of, source=f"job_usd + scoring_usd; {self.source}"
        )
