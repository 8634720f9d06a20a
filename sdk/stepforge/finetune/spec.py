"""What is asked of a provider: a base model, a method, data, and for reinforcement a grader."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stepforge.contracts.base import Contract, Sha256, digest
from stepforge.contracts.names import TUNE_PREFIX
from stepforge.finetune.optimisers import GepaOptimiser, Optimiser

ProviderName = Literal["openai", "vertex", "bedrock", "sagemaker", "anthropic"]
PROVIDERS: tuple[ProviderName, ...] = ("openai", "vertex", "bedrock", "sagemaker", "anthropic")
Method = Literal["sft", "dpo", "rft", "distillation", "prompt"]
"""Supervised, preference pairs, reinforcement with a grader, the responses of a larger model, and a better prompt in
the place of new weights."""
Format = Literal["openai", "vertex", "bedrock", "sagemaker", "prompt"]


class TokenRange(Contract):
    """How many tokens a text has, where only the provider can count them exactly."""

    low: Annotated[int, Field(ge=0)]
    expected: Annotated[int, Field(ge=0)] | None = None
    """Where records were counted by the provider's own counter; None: only the range is known."""
    high: Annotated[int, Field(ge=0)]
    method: str
    """How it was counted, such as `o200k x 0.85..1.25`."""

    @model_validator(mode="after")
    def _ordered(self) -> TokenRange:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.expected is not None and not self.low <= self.expected <= self.high:
            raise ValueError(f"expected {self.expected} is not between low {self.low} and high {self.high}")
        return self


class DatasetFile(Contract):
    """A file in a provider's format, known by its bytes. It lies at `{folder}/{sha256}.jsonl`."""

    format: Format
    method: Method
    sha256: Sha256
    bytes: Annotated[int, Field(gt=0)]
    rows: Annotated[int, Field(gt=0)]
    tokens: TokenRange

    @property
    def filename(self) -> str:
        return f"{self.sha256}.jsonl"


# ── Graders of reinforcement tuning ──────────────────────────────────────────────────────────────


class StringCheck(Contract):
    """1 where the completion compares with the reference as `operation` says, else 0."""

    type: Literal["string_check"] = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"


class TextSimilarity(Contract):
    type: Literal["text_similarity"] = "text_similarity"
    metric: Literal["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_l", "cosine"] = "fuzzy_match"


class ScoreModel(Contract):
    """Another model scores the completion: that model's tokens are charged too."""

    type: Literal["score_model"] = "score_model"
    model: str
    prompt: str
    """What the judge reads; `{{sample.output_text}}` and `{{item.reference_answer}}` are filled in by the provider."""


class PythonGrader(Contract):
    """`grade(sample, item) -> float` in the provider's sandbox, without network or files."""

    type: Literal["python"] = "python"
    source: Annotated[str, Field(min_length=1, max_length=256_000)]

    @model_validator(mode="after")
    def _has_grade(self) -> PythonGrader:
        try:
            code = compile(self.source, "grader", "exec")
        except SyntaxError as error:
            raise ValueError(f"the grader is no Python: {error.msg} in line {error.lineno}") from error
        if "grade" not in code.co_names:
            raise ValueError("the grader defines no function `grade(sample, item) -> float`")
        return self


class LambdaGrader(Contract):
    """A function in the same account that the provider calls (Bedrock, SageMaker)."""

    type: Literal["lambda"] = "lambda"
    arn: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:(lambda|sagemaker):[a-z0-9-]+:\d{12}:.+$")]


class HttpGrader(Contract):
    """A Cloud Run service of the same project that the provider calls (Vertex)."""

    type: Literal["http"] = "http"
    uri: Annotated[str, Field(pattern=r"^https://")]


Grader = Annotated[
    StringCheck | TextSimilarity | ScoreModel | PythonGrader | LambdaGrader | HttpGrader, Field(discriminator="type")
]


class Teacher(Contract):
    """The larger model of a distillation. The provider asks it for responses to our prompts, and tunes on them."""

    model: Annotated[str, Field(min_length=1, max_length=2048)]
    """As the provider's API calls it; at Bedrock an ARN or an inference profile too."""
    max_response_tokens: Annotated[int, Field(ge=1, le=131_072)]
    """Of one response, thoughts included. What the cost is held against; Bedrock cuts there, Vertex has no such
    setting."""
    labelled: bool = False
    """Send our answers with the prompts: Bedrock may show them to the teacher as examples of good ones."""
    sft_loss_weight: Annotated[float, Field(gt=0)] | None = None
    """Vertex: the weight of the teacher's words beside its distribution."""


class Hyperparameters(Contract):
    """Unset is the provider's own choice, but for the epochs: a price has to be known before anything is sent."""

    epochs: Annotated[int, Field(ge=1, le=50)] = 2
    batch_size: Annotated[int, Field(ge=1)] | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | None = None
    beta: Annotated[float, Field(gt=0)] | None = None
    """DPO: how closely the tuned model keeps to the base model."""
    adapter_size: Literal[1, 2, 4, 8, 16, 32] | None = None
    samples_per_prompt: Annotated[int, Field(ge=2, le=16)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


class TuneSpec(Contract):
    """One paid fine-tune. Whoever asks for the same one twice gets the same one.

    >>> file = DatasetFile(format="openai", method="sft", sha256="0" * 64, bytes=9, rows=10,
    ...                    tokens=TokenRange(low=90, high=110, method="o200k"))
    >>> spec = TuneSpec(provider="openai", environment="dev", base_model="gpt-4.1-mini", method="sft", training=file)
    >>> launch_key(spec, "https://api.example.com")[:3], spec.training.filename[-6:]
    ('sf-', '.jsonl')
    """

    provider: ProviderName
    environment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    base_model: Annotated[str, Field(min_length=1, max_length=2048)]
    method: Method
    training: DatasetFile
    validation: DatasetFile | None = None
    hyperparameters: Hyperparameters = Hyperparameters()
    grader: Grader | None = None
    teacher: Teacher | None = None
    optimiser: Optimiser | None = None
    """Of method 'prompt': what searches; None: gepa as it comes."""
    suffix: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")] = "stepforge"
    """Part of the tuned model's name, where the provider has one."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """A higher number is a second charge on purpose, after the first one failed, say."""

    @model_validator(mode="after")
    def _fits_together(self) -> TuneSpec:
        if (self.method == "rft") != (self.grader is not None):
            raise ValueError("method 'rft' needs a grader, and no other method has one")
        if (self.method == "distillation") != (self.teacher is not None):
            raise ValueError("method 'distillation' needs a teacher, and no other method has one")
        if self.teacher is not None and self.validation is not None:
            raise ValueError("a distillation splits its own validation off: leave validation out")
        if self.method == "prompt" and self.validation is not None:
            raise ValueError("a search for a prompt splits its own validation off: leave validation out")
        if self.optimiser is not None and self.method != "prompt":
            raise ValueError(f"method {self.method!r} searches no prompt: leave optimiser out, or use method 'prompt'")
        for name, file in (("training", self.training), ("validation", self.validation)):
            if file is not None and file.method != self.method:
                raise ValueError(f"{name} was written for method {file.method!r}, but the method is {self.method!r}")
        if self.validation is not None and self.validation.sha256 == self.training.sha256:
            raise ValueError("validation is the training file: it would measure nothing. Leave it out, or split it off")
        return self

    @property
    def how(self) -> str:
        """The method in words: of prompts, with what searches them."""
        chosen = "gepa" if self.optimiser is None and self.provider == "anthropic" else None
        searching = self.optimiser.type if self.optimiser is not None else chosen
        return f"{self.method} by {searching}" if self.method == "prompt" and searching else self.method


def launch_key(spec: TuneSpec, target: str) -> str:
    """What a launch is known by in our ledger and at the provider: 43 letters, digits and one hyphen.

    `target` is the account that pays. It fits a label, a tag, a job's name and an idempotency token of every provider.
    How the tokens of the data were counted is no part of it: the same data on a machine with another counter, or after
    the counter was mended, are the same launch. Nor is where an optimiser's rate and credentials are from; gepa as it
    comes is the search that there is without an optimiser.
    """
    counts = {"training": {"tokens"}, "validation": {"tokens"}}
    known = spec.model_dump(mode="json", exclude=counts)
    if spec.optimiser == GepaOptimiser():
        known["optimiser"] = None
    for name in ("as_of", "source", "credentials_secret"):
        (known["optimiser"] or {}).pop(name, None)
    for added in ("teacher", "optimiser"):
        if known[added] is None:
            del known[added]  # what was launched before there was a choice keeps its key
    if spec.teacher is not None and spec.provider == "vertex":
        del known["teacher"]["max_response_tokens"]  # which counts the cost there, and is not sent
    return TUNE_PREFIX + digest({"spec": known, "target": target})[:40]
