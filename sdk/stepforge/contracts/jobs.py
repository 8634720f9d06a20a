"""One training job: a `JobSpec`. Its identity is the digest of what decides the result."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stepforge.contracts.base import Contract, S3Uri, Sha256, digest
from stepforge.contracts.resources import Resources, check_hosts, check_pinned
from stepforge.contracts.work import TRAINING, LocalModel, NonNegativeInt, ScratchModel, Work, WorkType

Channel = Literal["data", "gate", "model", "champion", "records", "plugin"]
"""The input channels of a job. SageMaker puts each at /opt/ml/input/data/<channel>; `spec` is there always."""


class ArtifactRef(Contract):
    """The folder of an artifact, and the digest of its manifest."""

    uri: S3Uri
    sha256: Sha256


class Plugin(Contract):
    """The user's own code, which arrives through the `plugin` channel."""

    verifier: str | None = None
    """`package.module:function`."""
    domain: str | None = None
    """`package.module:DOMAIN`."""


class JobSpec(Contract):
    """One job: the work, what it reads, and the code that runs.

    >>> spec = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="0" * 64)
    >>> spec.type, spec.prefix == f"dataset-{spec.identity[:12]}"
    ('dataset', True)
    """

    version: Literal[1] = 1
    domain: str
    work: Work
    model: Annotated[ScratchModel | LocalModel, Field(discriminator="type")] | None = None
    """Where training starts from. None for jobs that read no model."""
    inputs: dict[Channel, ArtifactRef] = {}
    plugin: Plugin | None = None
    code_sha256: Sha256
    """Digest of the code and lock that run this type of job."""

    @model_validator(mode="after")
    def _has_its_inputs(self) -> JobSpec:
        needed: set[str] = {"dataset": set(), "gate": {"data"}, "evaluate": {"data", "model"}}.get(
            self.work.type, {"data", "gate"}
        )
        if isinstance(self.model, LocalModel):
            needed = needed | {"model"}
        if missing := sorted(needed - set(self.inputs)):
            raise ValueError(f"a {self.work.type!r} job needs the channels {missing}; given: {sorted(self.inputs)}")
        if self.work.type in TRAINING and self.model is None:
            raise ValueError(f"a {self.work.type!r} job needs a model; give ScratchModel() or LocalModel()")
        if self.plugin is not None and "plugin" not in self.inputs:
            raise ValueError("a plugin needs the channel 'plugin' with its code")
        return self

    @property
    def type(self) -> WorkType:
        return self.work.type

    @property
    def identity(self) -> str:
        """SHA-256 over everything that decides the result. Where the inputs lie does not."""
        plain = self.model_dump(mode="json")
        plain["inputs"] = {channel: ref["sha256"] for channel, ref in plain["inputs"].items()}
        return digest(plain)

    @property
    def prefix(self) -> str:
        """The job's name without its attempt."""
        return f"{self.type}-{self.identity[:12]}"


class JobRequest(Contract):
    """The input of the machine `run-job`: everything that CreateTrainingJob needs but the attempt.

    Field names are those that statemachines/run-job.asl.json reads.
    """

    prefix: Annotated[str, Field(pattern=r"^[a-z]+-[0-9a-f]{12}$")]
    spec_sha256: Sha256
    spec_uri: S3Uri
    image: Annotated[str, AfterValidator(check_pinned)]
    channels: dict[str, S3Uri]
    """Channel name to S3 prefix, `spec` included."""
    resources: Resources = Resources()
    tags: dict[str, str] = {}
    """More tags of the job: domain, environment, run. They do not decide which job it is."""

    @property
    def type(self) -> WorkType:
        """By the job's name, which begins with it."""
        found: WorkType = self.prefix.partition("-")[0]  # type: ignore[assignment]
        return found

    @model_validator(mode="after")
    def _hosts_have_work(self) -> Self:
        check_hosts(self.type, self.resources, own_records="records" in self.channels)
        return self


class JobOutcome(Contract):
    """The output of the machine `run-job`."""

    name: str
    arn: str
    type: WorkType
    artifact: ArtifactRef
    billable_seconds: NonNegativeInt = 0
    instance_type: str = ""
    adopted: bool = False
    """Whether an earlier execution had run it."""
