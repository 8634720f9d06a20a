"""What the machines `evaluate`, `dataset` and `approve` are asked for, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from stepforge.contracts.base import Contract, S3Uri, Sha256, digest
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobSpec, Plugin
from stepforge.contracts.resources import Resources, check_pinned
from stepforge.contracts.work import DatasetWork, EvaluateWork, GateWork, WorkType

MOST_PARTS = 500
"""Parts of a dataset: what a Map answers has to stay below the 256 KiB of a payload."""
_Image = Annotated[str, AfterValidator(check_pinned)]


class EvaluationSpec(Contract):
    """An evaluation by itself, of any model on any data. The execution's name carries the digest of this."""

    version: Literal[1] = 1
    domain: str
    model: ArtifactRef
    data: ArtifactRef
    """A dataset: its test splits are asked."""
    evaluation: EvaluateWork = EvaluateWork()
    plugin: Plugin | None = None
    plugin_artifact: ArtifactRef | None = None
    code_sha256: Sha256
    image: _Image
    resources: Resources = Resources()

    @property
    def job(self) -> JobSpec:
        plugin = {} if self.plugin_artifact is None else {"plugin": self.plugin_artifact}
        return JobSpec(
            domain=self.domain,
            work=self.evaluation,
            inputs={"data": self.data, "model": self.model, **plugin},
            plugin=self.plugin,
            code_sha256=self.code_sha256,
        )

    @property
    def identity(self) -> str:
        """Of its job: instances and addresses decide nothing."""
        return self.job.identity


class EvaluateOutput(Contract):
    """Output of the machine `evaluate`; the scores are in `evaluation.json` of its artifact."""

    evaluation: JobOutcome


class AssemblySpec(Contract):
    """A dataset made of many files of records, a job each, and then joined and gated. Each source is an artifact of
    kind `records`, as an upload of one's own records makes it."""

    version: Literal[1] = 1
    domain: str
    sources: Annotated[tuple[ArtifactRef, ...], Field(min_length=1, max_length=MOST_PARTS)]
    shard_rows: Annotated[int, Field(gt=0)] = 2_000
    gate: GateWork = GateWork()
    plugin: Plugin | None = None
    plugin_artifact: ArtifactRef | None = None
    code: dict[WorkType, Sha256]
    """Of `dataset` and `gate`."""
    image: _Image
    resources: dict[WorkType, Resources] = {}

    @model_validator(mode="after")
    def _differ(self) -> AssemblySpec:
        digests = [source.sha256 for source in self.sources]
        if twice := sorted({sha256 for sha256 in digests if digests.count(sha256) > 1}):
            raise ValueError(f"{len(twice)} of the sources is given twice, such as {twice[0]}: give each once")
        return self

    def part(self, source: ArtifactRef) -> JobSpec:
        """The job that reads one source."""
        work = DatasetWork(domain=self.domain, shard_rows=self.shard_rows)
        return self._job(work, {"records": source})

    def gate_of(self, data: ArtifactRef) -> JobSpec:
        return self._job(self.gate, {"data": data})

    def _job(self, work: Any, inputs: dict[Any, ArtifactRef]) -> JobSpec:
        plugin = {} if self.plugin_artifact is None else {"plugin": self.plugin_artifact}
        return JobSpec(
            domain=self.domain,
            work=work,
            inputs={**inputs, **plugin},
            plugin=self.plugin,
            code_sha256=self.code[work.type],
        )

    @property
    def identity(self) -> str:
        """Of its parts in their order: shards are numbered in it."""
        return digest([*(self.part(source).identity for source in self.sources), self.gate.model_dump(mode="json")])


class SpecRef(Contract):
    """Input of `evaluate` and `dataset`: where the spec lies, and which it is."""

    spec_uri: S3Uri
    spec_sha256: Sha256
    """Its identity."""


class Part(Contract):
    """What became of one source: its artifact, or the error of its job."""

    artifact: ArtifactRef | None = None
    error: str | None = None
    cause: str | None = None


class AssemblyOutput(Contract):
    """Output of the machine `dataset`. `dataset` serves as data of an evaluation and as records of a pipeline."""

    dataset: ArtifactRef
    counts: dict[str, int]
    """Split to records."""
    gate: JobOutcome


# ── People in the loop ───────────────────────────────────────────────────────────────────────────

MOST_DAYS_ASKED = 30
ASKED_SECONDS = 3 * 86_400


class ApprovalRequest(Contract):
    """Input of the machine `approve`: what a person is asked, and for how long.

    >>> ApprovalRequest(kind="spending", subject="train-0123456789ab", question="It may cost $40.").identity[:8]
    '8c231465'
    """

    kind: Literal["spending", "promotion"]
    subject: str
    """What it is about: the ARN of a package, or the name of a run."""
    question: Annotated[str, Field(min_length=1, max_length=1_000)]
    details: dict[str, str] = {}
    """Shown with the question: figures, links."""
    expires_seconds: Annotated[int, Field(gt=0, le=MOST_DAYS_ASKED * 86_400)] = ASKED_SECONDS
    """After this it counts as not approved."""

    @property
    def identity(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"expires_seconds"}))


class Answer(Contract):
    """What a person said: the output of the machine `approve` where it is yes."""

    approved: bool
    by: Annotated[str, Field(min_length=1, max_length=256)]
    reason: Annotated[str, Field(max_length=400)] = ""


class PendingApproval(Contract):
    """What lies in the bucket while a person is asked. Who can read the token can answer."""

    name: str
    """Of the execution."""
    token: str
    request: ApprovalRequest
    execution_arn: str
