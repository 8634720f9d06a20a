"""What the machines `evaluate`, `dataset` and `approve` are asked for, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from stepforge.contracts.base import Contract, S3Uri, Sha256, digest
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobSpec, Plugin
from stepforge.contracts.resources import Resources, check_pinned
from stepforge.contracts.work import DatasetWork, EvaluateWork, GateWork, PartOf, WorkType

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
    """A dataset made in parts, a job each, joined and gated: of files of records, or of what a domain generates.

    Each source is an artifact of kind `records`, as an upload of one's own records makes it. A generated dataset is,
    byte for byte, the one that a single job makes.
    """

    version: Literal[1] = 1
    domain: str
    sources: Annotated[tuple[ArtifactRef, ...], Field(max_length=MOST_PARTS)] = ()
    generated: DatasetWork | None = None
    """In place of sources: all of it, which `parts` jobs share."""
    parts: Annotated[int, Field(ge=1, le=MOST_PARTS)] = 1
    """Of what is generated; each source is a part of its own."""
    shard_rows: Annotated[int, Field(gt=0)] = 2_000
    """Of parts from sources; what is generated says it itself."""
    gate: GateWork = GateWork()
    plugin: Plugin | None = None
    plugin_artifact: ArtifactRef | None = None
    code: dict[WorkType, Sha256]
    """Of `dataset` and `gate`."""
    image: _Image
    resources: dict[WorkType, Resources] = {}

    @model_validator(mode="after")
    def _has_one_origin(self) -> AssemblySpec:
        if bool(self.sources) == (self.generated is not None):
            raise ValueError("give either `sources`, one or more, or `generated`")
        work = self.generated
        if work is None:
            if self.parts != 1:
                raise ValueError(f"parts {self.parts} beside sources, each of which is a part: leave parts out")
            return self
        if work.part is not None:
            raise ValueError("generated.part is given by the machine to each job: leave it out, and set parts")
        if work.domain != self.domain:
            raise ValueError(f"generated.domain {work.domain!r} is not the domain {self.domain!r}")
        if self.parts > work.shards:
            raise ValueError(
                f"parts {self.parts} are more than its {work.shards} shards of {work.shard_rows} records: lower parts "
                "or dataset.shard_rows"
            )
        return self

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

    @property
    def jobs(self) -> tuple[JobSpec, ...]:
        """The jobs of the parts, in their order."""
        work = self.generated
        if work is None:
            return tuple(map(self.part, self.sources))
        parts = (PartOf(number=number, of=self.parts) for number in range(self.parts))
        # One part is the whole, and the very job that a pipeline begins with.
        works = [work] if self.parts == 1 else [work.model_copy(update={"part": part}) for part in parts]
        return tuple(self._job(work, {}) for work in works)

    def label(self, number: int) -> str:
        """What a part is, for people: `part 2 of 8`, with the source that it reads."""
        if self.sources:
            return f"part {number + 1} of {len(self.sources)}, {self.sources[number].uri}"
        return f"part {number + 1} of {self.parts}"

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
        """Of its parts in their order, since shards are numbered in it, and of its gate."""
        gate = [self.gate.model_dump(mode="json"), self.code["gate"]]
        return digest([*(job.identity for job in self.jobs), *gate])


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
