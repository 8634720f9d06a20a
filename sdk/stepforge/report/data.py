"""What a report is made of: everything that a page shows, so that drawing it is a pure function."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.previews import Preview
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, GateReport, StageReport
from stepforge.contracts.work import WorkType

Curve = tuple[tuple[float, float], ...]
"""(step, value), in order. Values may be NaN where training went wrong."""


class AttemptView(Contract):
    """One attempt at a job. An attempt that failed is billed too."""

    name: str
    arn: str
    status: str
    instance_type: str = ""
    instance_count: int = 1
    billable_seconds: int | None = None
    """Of each instance; None where SageMaker does not say."""
    spot: bool = False
    failure: str = ""

    @property
    def instance_seconds(self) -> int | None:
        return None if self.billable_seconds is None else self.billable_seconds * self.instance_count


class JobView(Contract):
    stage: str
    type: WorkType
    name: str
    """Of the attempt that counts."""
    status: str
    """InProgress, Completed, Failed, Stopping, Stopped, or Absent."""
    spec_sha256: Sha256
    code_sha256: Sha256
    attempts: tuple[AttemptView, ...] = ()
    artifact: ArtifactRef | None = None
    settings: dict[str, Any] = {}


class StageView(Contract):
    """A training stage that is done."""

    # A metric that was not a number at a step is a gap in its curve, not the end of the report.
    model_config = ConfigDict(allow_inf_nan=True)

    stage: str
    report: StageReport
    curves: dict[str, Curve] = {}
    """Metric name to its values."""


class DatasetView(Contract):
    sha256: Sha256
    counts: dict[str, int] = {}
    """Split to number of records."""
    verifier: str = ""


class Reference(Contract):
    """A model to compare with."""

    role: Literal["champion", "base"]
    name: str
    evaluation: EvaluationReport


class Example(Contract):
    preview: Preview
    fragment: str | None = None
    """HTML of the domain's own drawing; untrusted."""


class RegistryView(Contract):
    """The version in the registry, as it is when the report is written."""

    reference: str
    """`facial/3`."""
    state: str
    """As `stepforge registry list` shows it."""
    reason: str = ""
    """Why it is in this state; empty where nobody has decided."""


class ReportData(Contract):
    run: str
    domain: str
    environment: str
    status: str
    """RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED."""
    started: datetime
    stopped: datetime | None = None
    error: str = ""
    cause: str = ""
    pipeline_sha256: Sha256
    image: str
    group: str
    package_arn: str = ""
    """Empty where nothing was registered."""
    package: RegistryView | None = None
    """None where nothing was registered, or the version is gone."""
    version: str
    """Release of stepforge that wrote the report."""

    jobs: tuple[JobView, ...] = ()
    later: tuple[str, ...] = ()
    """Stages that were not reached."""
    dataset: DatasetView | None = None
    gate: GateReport | None = None
    stages: tuple[StageView, ...] = ()
    evaluation: EvaluationReport | None = None
    references: tuple[Reference, ...] = ()
    comparison: Comparison | None = None
    """The champion gate's decision, as the run recorded it."""
    notes: tuple[str, ...] = ()
    """What was looked for and could not be read."""

    examples: tuple[Example, ...] = ()
    completions: int = 0
    """Rows of the evaluation."""
    unreadable: dict[str, int] = {}
    """Reason to the number of completions that could not be read."""

    prices: dict[str, float] | None = None
    """Instance type to US dollars an hour."""
    command: str = ""
    recipe: str | None = None
    """TOML to save as recipe.toml first, where the command names it."""

    def job(self, type_: WorkType) -> JobView | None:
        return next((job for job in self.jobs if job.type == type_), None)
