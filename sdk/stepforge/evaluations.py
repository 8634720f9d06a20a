"""Evaluations by themselves: any model, on the held-out records of any dataset, beside the champion.

A model is a version (`facial/3`), a run or a training job, an address of either, or a Hugging Face directory of this
machine. Data are those that a version or run was evaluated on, a run or job of `dataset`, or the address of a dataset.
The judge comes with the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepforge.artifacts import folder, read_bytes, read_manifest, read_report
from stepforge.connection import Connection, command
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import ArtifactRef, JobSpec, Plugin
from stepforge.contracts.manifests import ArtifactKind, Manifest, describe_folder
from stepforge.contracts.names import Keys, package_group
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import Comparison, ExternalLineage, PackageMetadata
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.requests import EvaluateOutput, EvaluationSpec
from stepforge.contracts.resources import Resources
from stepforge.contracts.work import TRAINING, EvaluateWork, WorkType
from stepforge.errors import IdentityConflict, InvalidInput
from stepforge.following.job_runs import JobRun
from stepforge.jobs import Jobs
from stepforge.machines import attempts
from stepforge.machines.packages import EVALUATION, compare_evaluations, find_champion
from stepforge.pipelines import Pipelines, Run
from stepforge.recipes import bound_resources, changed_resources, job_image, validated
from stepforge.registry import Package, Registry
from stepforge.submitting import started, transfers
from stepforge.submitting.models import check_model_folder, check_stages

_JOB = re.compile(r"[a-z]+-[0-9a-f]{12}-a\d+")
_RUN = re.compile(r"train-[0-9a-f]{12}-r\d+")
_OUTPUT = re.compile(r"s3://[^/]+/jobs/([a-z]+-[0-9a-f]{12}-a\d+)/output/model/?")


class Settings(Contract):
    """What `--set` reaches: `evaluation.samples=8`, `resources.evaluate.spot=true`."""

    evaluation: EvaluateWork = EvaluateWork()
    resources: dict[WorkType, Resources] = {}


@dataclass(frozen=True)
class Held:
    """A dataset whose test splits are asked, and who judges the answers."""

    name: str
    artifact: ArtifactRef
    domain: str
    plugin: Plugin | None = None
    plugin_artifact: ArtifactRef | None = None
    work: EvaluateWork | None = None
    """How it was asked before; None where it was not."""


@dataclass(frozen=True)
class Subject:
    """A model that can be asked."""

    name: str
    artifact: ArtifactRef
    held: Held | None = None
    """What it was evaluated on, or trained beside; None where that is not known."""
    here: tuple[Path, Manifest] | None = None
    """A directory of this machine, and what is uploaded of it."""


@dataclass(frozen=True)
class Asked:
    """An evaluation that was asked for, and has not been started."""

    spec: EvaluationSpec
    subject: Subject
    held: Held


@dataclass(frozen=True)
class Against:
    """The champion that a model is held against: `spec` is the evaluation of it that is missing, None where none is."""

    package: dict[str, Any] | None = None
    spec: EvaluationSpec | None = None


class Evaluations:
    """Evaluations of one environment.

    >>> asked = client.evaluations.ask("facial/3", on="facial/1")  # doctest: +SKIP
    >>> run = client.evaluations.start(asked)  # doctest: +SKIP
    >>> client.evaluations.report(run.wait()).score("test_new", "greedy").mean  # doctest: +SKIP
    0.93
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(
        self,
        model: str,
        *,
        on: str | None = None,
        overrides: Mapping[str, str] | None = None,
        **resources: Any,
    ) -> Asked:
        """What it takes to score `model` on `on`, its own held-out data where that is None. Nothing is changed.

        It is asked as the data were asked before, but for `overrides` such as `{"evaluation.samples": "8"}`;
        `resources` are fields of `Resources`. Raises UnknownName for what does not exist, InvalidInput where model and
        data do not go together, IntegrityError where either was altered.
        """
        subject = self.model(model)
        held = subject.held if on is None else self.data(on)
        if held is None:
            raise InvalidInput(f"{subject.name} has no held-out data of its own: name some with --on, such as facial/1")
        held = self._judged(held, subject)
        self._check(held)
        plain = {"evaluation": (held.work or EvaluateWork()).model_dump(mode="json")}
        settings = validated(Settings, plain, overrides or {}, source="the evaluation")
        if subject.here is not None:
            check_stages(subject.here[0], (), settings.evaluation)
        environment = self._connection.environment
        spec = EvaluationSpec(
            domain=held.domain,
            model=subject.artifact,
            data=held.artifact,
            evaluation=settings.evaluation,
            plugin=held.plugin,
            plugin_artifact=held.plugin_artifact,
            code_sha256=environment.code["evaluate"],
            image=job_image(environment, "evaluate"),
            resources=bound_resources(changed_resources(settings.resources, **resources), environment)["evaluate"],
        )
        return Asked(spec, subject, held)

    def against(self, asked: Asked) -> Against:
        """The domain's champion, and its evaluation on the same records where there is none yet."""
        sagemaker, s3 = self._connection.client("sagemaker"), self._connection.client("s3")
        package = find_champion(sagemaker, package_group(asked.spec.domain, self._connection.name))
        properties = {} if package is None else package.get("CustomerMetadataProperties", {})
        metadata = PackageMetadata.of(properties)
        if package is None or metadata is None or metadata.model_sha256 == asked.spec.model.sha256:
            return Against(package)
        if ExternalLineage.of(properties) is not None:
            return Against(package)
        source = package["InferenceSpecification"]["Containers"][0]["ModelDataSource"]["S3DataSource"]["S3Uri"]
        theirs = asked.spec.model_copy(update={"model": ArtifactRef(uri=source, sha256=metadata.model_sha256)})
        evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
        known = read_report(s3, evaluation, EVALUATION, EvaluationReport)
        return Against(package, None if known.spec_sha256 == theirs.job.identity else theirs)

    def start(self, asked: Asked | EvaluationSpec) -> JobRun[EvaluateOutput, EvaluationSpec]:
        """Start it, or adopt what runs or is done. A model of this machine is uploaded before."""
        if isinstance(asked, EvaluationSpec):
            return started.evaluate(self._connection, asked)
        if asked.subject.here is not None:
            transfers.upload(self._connection, *asked.subject.here)
        return started.evaluate(self._connection, asked.spec)

    def get(self, name: str) -> JobRun[EvaluateOutput, EvaluationSpec]:
        """The evaluation of this name, such as `evaluate-0123456789ab-r0`. Raises UnknownName."""
        return started.find(self._connection, name)

    def report(self, output: EvaluateOutput) -> EvaluationReport:
        """The scores. Raises IntegrityError where they were altered."""
        return started.scores(self._connection, output)

    def compare(self, output: EvaluateOutput, against: Against, champion: EvaluateOutput | None = None) -> Comparison:
        """The champion gate's words about an evaluation, with that of the champion on the same records where made."""
        anew = None if champion is None else champion.evaluation.artifact
        s3 = self._connection.client("s3")
        return compare_evaluations(s3, output.evaluation.artifact, against.package, champion_evaluation=anew)

    # What is named

    def model(self, reference: str) -> Subject:
        """A model by its name, its address or its directory, which begins with `.`, `/` or `~`."""
        if reference.startswith((".", "/", "~")):
            directory = check_model_folder(Path(reference).expanduser())
            manifest = describe_folder(directory, "model")
            return Subject(reference, transfers.destination(self._connection, manifest), here=(directory, manifest))
        if reference.startswith("s3://"):
            if (output := _OUTPUT.fullmatch(reference)) is not None:
                return self._model_of_job(output[1])
            return Subject(reference, self._artifact(reference, "model"))
        if _JOB.fullmatch(reference):
            return self._model_of_job(reference)
        if reference == "latest" or _RUN.fullmatch(reference):
            run = Pipelines(self._connection).get(reference)
            last = run.jobs()[-1]
            models = [job.attempt.outcome for job in run.jobs() if job.spec.type in TRAINING]
            done = [outcome for outcome in models if outcome is not None]
            if len(done) < len(run.spec.stages):
                raise InvalidInput(
                    f"run {run.name} has no model yet: {last.stage} is {last.attempt.status}. Wait for it, or name a "
                    "job of it that is done"
                )
            return Subject(run.name, done[-1].artifact, self._held_of_run(run))
        package = Registry(self._connection).get(reference)
        if ExternalLineage.of(package.metadata) is not None:
            raise InvalidInput(
                f"the weights of {package.reference} are a provider's, which no job can ask: `stepforge finetune "
                "compare` compares it by the evaluation that it has"
            )
        if package.artifact is None:
            raise InvalidInput(f"model {package.reference} names no artifact: it was not registered by stepforge")
        return Subject(package.reference, package.artifact, self._held_of_package(package))

    def data(self, reference: str) -> Held:
        """Held-out data by the name of what was evaluated on them or made them, or by their address."""
        if reference.startswith("s3://"):
            if (output := _OUTPUT.fullmatch(reference)) is not None:
                return self._held_of_job(output[1])
            artifact = self._artifact(reference, "dataset")
            manifest = read_manifest(self._connection.client("s3"), artifact.uri, expected_sha256=artifact.sha256)
            return Held(reference, artifact, str(manifest.metadata.get("domain", "")))
        if _JOB.fullmatch(reference):
            return self._held_of_job(reference)
        if reference.startswith("dataset-"):
            run = started.find(self._connection, reference)
            spec = run.spec
            return Held(run.name, run.result().dataset, spec.domain, spec.plugin, spec.plugin_artifact)
        if reference == "latest" or _RUN.fullmatch(reference):
            return self._held_of_run(Pipelines(self._connection).get(reference))
        package = Registry(self._connection).get(reference)
        held = self._held_of_package(package)
        if held is None:
            raise InvalidInput(
                f"model {package.reference} was evaluated by no job of this environment: name a run or a dataset"
            )
        return held

    def _held_of_package(self, package: Package) -> Held | None:
        metadata = PackageMetadata.of(package.metadata)
        if metadata is None or ExternalLineage.of(package.metadata) is not None:
            return None
        evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
        report = read_report(self._connection.client("s3"), evaluation, EVALUATION, EvaluationReport)
        return _held_of(f"the held-out data of {package.reference}", self._spec(report.spec_sha256))

    def _held_of_run(self, run: Run) -> Held:
        dataset = run.jobs()[0].attempt.outcome
        if dataset is None:
            raise InvalidInput(f"run {run.name} has no dataset yet: it is {run.execution.word}")
        spec: PipelineSpec = run.spec
        name = f"the held-out data of {run.name}"
        return Held(name, dataset.artifact, spec.domain, spec.plugin, spec.plugin_artifact, spec.evaluation)

    def _held_of_job(self, name: str) -> Held:
        spec, artifact = self._job(name)
        if spec.type == "dataset":
            return Held(name, artifact, spec.domain, spec.plugin, spec.inputs.get("plugin"))
        return _held_of(f"the data of {name}", spec)

    def _model_of_job(self, name: str) -> Subject:
        spec, artifact = self._job(name)
        if spec.type not in TRAINING:
            raise InvalidInput(
                f"{name} is a job of type {spec.type!r}, which makes no model: name one of {', '.join(TRAINING)}"
            )
        return Subject(name, artifact, _held_of(f"the held-out data of {name}", spec))

    def _job(self, name: str) -> tuple[JobSpec, ArtifactRef]:
        """The spec of a job that is done, and what it made. Raises the JobFailed of one that made nothing."""
        described, environment = Jobs(self._connection).get(name), self._connection.environment
        if attempts.ending(described) is None:
            raise InvalidInput(
                f"job {name} is {described['TrainingJobStatus']}: wait for it "
                f"(`{command(f'watch {name}', environment.name)}`)"
            )
        s3 = self._connection.client("s3")
        outcome = attempts.completed(s3, described, bucket=environment.bucket, adopted=True)
        return self._spec(described["HyperParameters"]["spec_sha256"]), outcome.artifact

    def _spec(self, identity: str) -> JobSpec:
        uri = f"s3://{self._connection.environment.bucket}/{Keys.spec(identity)}"
        try:
            spec = JobSpec.model_validate_json(read_bytes(self._connection.client("s3"), uri))
        except ValueError as error:
            raise InvalidInput(f"{uri} is no spec of this version: {error}") from error
        if spec.identity != identity:
            raise IdentityConflict(f"{uri} holds the spec {spec.identity}: it was altered")
        return spec

    def _artifact(self, uri: str, kind: ArtifactKind) -> ArtifactRef:
        manifest = read_manifest(self._connection.client("s3"), uri)
        if manifest.kind != kind:
            raise InvalidInput(f"{uri} is of kind {manifest.kind!r}, where a {kind} is needed")
        return ArtifactRef(uri=folder(uri), sha256=manifest.sha256)

    @staticmethod
    def _judged(held: Held, subject: Subject) -> Held:
        """The data with their judge: of an address alone it is that of the model."""
        own = subject.held
        domain = held.domain or (own.domain if own is not None else "")
        if not domain:
            raise InvalidInput(f"nobody knows of which domain {held.name} is: name the run or the job that made it")
        if own is not None and domain != own.domain:
            raise InvalidInput(
                f"{subject.name} is a model of {own.domain!r}, and {held.name} of {domain!r}: name data of one domain"
            )
        held = replace(held, domain=domain)
        if held.plugin is None and own is not None:
            return replace(held, plugin=own.plugin, plugin_artifact=own.plugin_artifact)
        return held

    def _check(self, held: Held) -> None:
        s3 = self._connection.client("s3")
        manifest = read_manifest(s3, held.artifact.uri, expected_sha256=held.artifact.sha256)
        if manifest.kind != "dataset":
            raise InvalidInput(f"{held.name} is of kind {manifest.kind!r}, where a dataset is needed")
        counts = manifest.metadata.get("counts")
        if counts is not None and not any(counts.get(split) for split in TEST_SPLITS):
            raise InvalidInput(f"no test split of {held.name} has records; there are {counts}: name data that have")


def _held_of(name: str, spec: JobSpec) -> Held:
    """What a job reads as its data, as every job but that of a dataset does."""
    work = spec.work if isinstance(spec.work, EvaluateWork) else None
    return Held(name, spec.inputs["data"], spec.domain, spec.plugin, spec.inputs.get("plugin"), work)
