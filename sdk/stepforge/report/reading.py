"""Everything that a report shows, read from a run's jobs and their artifacts. Each file is checked on the way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

import stepforge
from stepforge import artifacts
from stepforge.connection import Connection
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import Manifest
from stepforge.contracts.previews import PREVIEWS, CompletionRow, Preview, choose, preview_of
from stepforge.contracts.registry import Comparison
from stepforge.contracts.reports import EvaluationReport, GateReport, StageReport
from stepforge.contracts.work import TRAINING
from stepforge.errors import InvalidInput
from stepforge.jobs import JobState
from stepforge.pipelines import PlannedJob, Run
from stepforge.registry import Registry
from stepforge.report.data import (
    AttemptView,
    Curve,
    DatasetView,
    Example,
    JobView,
    Reference,
    RegistryView,
    ReportData,
    StageView,
)
from stepforge.report.reproduce import reproduction

_PREVIEWS: TypeAdapter[tuple[Preview, ...]] = TypeAdapter(tuple[Preview, ...])
_Model = TypeVar("_Model", bound=BaseModel)


def read_run(
    run: Run, *, prices: Mapping[str, float] | None = None, base: EvaluationReport | None = None
) -> ReportData:
    """Walk the run's jobs and read what the finished ones wrote; a run that is under way gives what there is so far.

    `prices` maps an instance type to US dollars an hour; `base` is an evaluation of the model that training started
    from. Raises IntegrityError naming the file that differs from its digest, InvalidInput for one that is malformed.
    """
    connection, execution = run.connection, run.refresh()
    planned = run.jobs()
    views = [_job(job) for job in planned]
    names = ["dataset", "gate", *(stage.name for stage in run.spec.stages), "evaluate"]
    output = execution.output or {}
    comparison = Comparison.model_validate(output["comparison"]) if output.get("comparison") else None
    champion, notes = _champion(connection, comparison)
    package, gone = _package(connection, output.get("package_arn") or "")
    references = [champion] if champion else []
    if base is not None:
        references.append(Reference(role="base", name="base", evaluation=base))
    command, recipe = reproduction(run.spec, connection.name)
    return ReportData(
        run=run.name,
        domain=run.spec.domain,
        environment=connection.name,
        status=execution.status,
        started=execution.started,
        stopped=execution.stopped,
        error=execution.error,
        cause=execution.cause,
        pipeline_sha256=run.spec.identity,
        image=run.spec.image,
        group=run.spec.group,
        package_arn=output.get("package_arn") or "",
        package=package,
        version=stepforge.__version__,
        jobs=tuple(views),
        later=tuple(names[len(views) :]),
        references=tuple(references),
        comparison=comparison,
        notes=(*notes, *gone),
        prices=None if prices is None else dict(prices),
        command=command,
        recipe=recipe,
        **_results(connection, views),
    )


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────


def _job(planned: PlannedJob) -> JobView:
    spec, outcome = planned.spec, planned.attempt.outcome
    return JobView(
        stage=planned.stage,
        type=spec.type,
        name=planned.attempt.name,
        status=planned.attempt.status,
        spec_sha256=spec.identity,
        code_sha256=spec.code_sha256,
        attempts=tuple(_attempt(found) for found in planned.attempts),
        artifact=None if outcome is None else outcome.artifact,
        settings=spec.work.model_dump(mode="json"),
    )


def _attempt(attempt: JobState) -> AttemptView:
    description = attempt.description or {}
    resources = description.get("ResourceConfig", {})
    return AttemptView(
        name=attempt.name,
        arn=description.get("TrainingJobArn", ""),
        status=attempt.status,
        instance_type=resources.get("InstanceType", ""),
        instance_count=resources.get("InstanceCount", 1),
        billable_seconds=description.get("BillableTimeInSeconds"),
        spot=description.get("EnableManagedSpotTraining", False),
        failure=attempt.failure or description.get("FailureReason", ""),
    )


# ── Artifacts ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Artifact:
    """An artifact in S3 whose manifest was compared with its digest."""

    connection: Connection
    ref: ArtifactRef
    manifest: Manifest

    def read(self, name: str) -> bytes | None:
        """A file that its digest vouches for; None where the manifest does not name it. Raises IntegrityError."""
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            return None
        uri = artifacts.folder(self.ref.uri) + name
        data = artifacts.read_bytes(self.connection.client("s3"), uri)
        artifacts.check_digest(uri, entry, hashlib.sha256(data).hexdigest())
        return data

    def report(self, name: str, model: type[_Model]) -> _Model | None:
        data = self.read(name)
        if data is None:
            return None
        try:
            return model.model_validate_json(data)
        except ValueError as error:
            raise InvalidInput(f"{self.ref.uri} {name} is not a {model.__name__}: {error}") from error


def _open(connection: Connection, ref: ArtifactRef) -> Artifact:
    manifest = artifacts.read_manifest(connection.client("s3"), ref.uri, expected_sha256=ref.sha256)
    return Artifact(connection, ref, manifest)


def _results(connection: Connection, views: list[JobView]) -> dict[str, Any]:
    """The fields of ReportData that come from artifacts."""
    found: dict[str, Any] = {}
    stages: list[StageView] = []
    for view in views:
        if view.artifact is None:
            continue
        artifact = _open(connection, view.artifact)
        if view.type == "dataset":
            metadata = artifact.manifest.metadata
            found["dataset"] = DatasetView(
                sha256=view.artifact.sha256,
                counts=metadata.get("counts", {}),
                verifier=metadata.get("verifier", ""),
            )
        elif view.type == "gate":
            found["gate"] = artifact.report("gate.json", GateReport)
        elif view.type in TRAINING and (report := artifact.report("run.json", StageReport)) is not None:
            lines = artifact.read("metrics.jsonl") or b""
            stages.append(StageView(stage=view.stage, report=report, curves=parse_metrics(lines)))
        elif view.type == "evaluate":
            found["evaluation"] = artifact.report("evaluation.json", EvaluationReport)
            found |= _outputs(artifact)
    return found | {"stages": tuple(stages)}


def parse_metrics(lines: bytes) -> dict[str, Curve]:
    """metrics.jsonl as one curve a metric. Raises InvalidInput naming the line that is malformed."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            row = json.loads(line)
            step = float(row.pop("step"))
            for name, value in row.items():
                curves[name].append((step, float(value)))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InvalidInput(f"metrics.jsonl line {number} is no object of numbers with `step`: {error}") from error
    return {name: tuple(points) for name, points in curves.items()}


def _outputs(artifact: Artifact) -> dict[str, Any]:
    """Examples, as the evaluation chose them or else from its rows, and why completions could not be read."""
    rows = [CompletionRow.model_validate_json(line) for line in (artifact.read("rows.ndjson") or b"").splitlines()]
    listed = artifact.read(PREVIEWS)
    previews = _PREVIEWS.validate_json(listed) if listed else tuple(preview_of(row) for row in choose(rows))
    examples = []
    for preview in previews:
        fragment = None if preview.file is None else artifact.read(preview.file)
        text = None if fragment is None else fragment.decode("utf-8", "replace")
        examples.append(Example(preview=preview, fragment=text))
    unreadable = Counter(row.reason for row in rows if row.reason)
    return {"examples": tuple(examples), "completions": len(rows), "unreadable": dict(unreadable.most_common())}


def _package(connection: Connection, arn: str) -> tuple[RegistryView | None, tuple[str, ...]]:
    """The run's version as the registry has it now, and what is to be said where it is gone."""
    if not arn:
        return None, ()
    try:
        found = Registry(connection).get(arn)
    except connection.client("sagemaker").exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        return None, (f"The version {arn} of this run is no longer in the registry.",)
    return RegistryView(reference=found.reference, state=found.state, reason=found.why), ()


def _champion(connection: Connection, comparison: Comparison | None) -> tuple[Reference | None, tuple[str, ...]]:
    """The evaluation that the champion was registered with, and what could not be read of it."""
    if comparison is None or comparison.champion is None:
        return None, ()
    arn = comparison.champion
    sagemaker = connection.client("sagemaker")
    try:
        package = sagemaker.describe_model_package(ModelPackageName=arn)
    except sagemaker.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        return None, (f"The champion {arn} is no longer in the registry, so its scores cannot be shown.",)
    metadata = package.get("CustomerMetadataProperties", {})
    uri, sha256 = metadata.get("evaluation_uri"), metadata.get("evaluation_sha256")
    if not uri or not sha256:
        return None, (f"The champion {arn} was registered without an evaluation, so its scores cannot be shown.",)
    evaluation = _open(connection, ArtifactRef(uri=uri, sha256=sha256)).report("evaluation.json", EvaluationReport)
    if evaluation is None:
        return None, (f"The evaluation of the champion {arn} holds no evaluation.json.",)
    return Reference(role="champion", name=arn.rpartition("/")[2], evaluation=evaluation), ()
