"""Model packages: find the champion, and register a challenger once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import existing, is_absent
from stepforge.artifacts import folder, read_file, read_report
from stepforge.contracts.base import Contract, digest
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobRequest, JobSpec
from stepforge.contracts.pipelines import PipelineSpec, PipelineState, next_job
from stepforge.contracts.previews import CompletionRow
from stepforge.contracts.registry import CHAMPION_GATE, Comparison, ExternalLineage, PackageMetadata, Registered
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import InvalidInput
from stepforge.machines.cards import metrics_of
from stepforge.machines.champion import cells_of, compare
from stepforge.machines.failures import Failure

EVALUATION = "evaluation.json"
ROWS = "rows.ndjson"

TOKEN_LENGTH = 36


class Champion(Contract):
    """The champion as the machine `train` evaluated it on the challenger's test data."""

    package_arn: str | None = None
    evaluation: JobOutcome | None = None
    """None where none was needed, or it failed."""
    failure: Failure | None = None


class ChampionPlan(Contract):
    """What the machine `train` has to do before it compares; `job` is None where nothing is missing."""

    state: PipelineState
    champion_arn: str | None = None
    job: JobRequest | None = None


class CompareRequest(Contract):
    state: PipelineState
    champion: Champion = Champion()


class Compared(Contract):
    state: PipelineState
    comparison: Comparison


def summaries(sagemaker: Any, group: str, **filters: str) -> Iterator[dict[str, Any]]:
    """ModelPackageSummary of a group, newest first; nothing where the group does not exist."""
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, SortBy="CreationTime", SortOrder="Descending", **filters
    )
    try:
        for page in pages:
            yield from page["ModelPackageSummaryList"]
    except AwsError as error:
        if not is_absent(error):
            raise


def find_champion(sagemaker: Any, group: str) -> dict[str, Any] | None:
    """The described package that serves now, else the newest Approved one, else None."""
    approved = list(summaries(sagemaker, group, ModelApprovalStatus="Approved"))
    serving = [p for p in approved if p.get("ModelLifeCycle", {}).get("Stage") == "Production"]
    chosen = next(iter(serving or approved), None)
    return None if chosen is None else sagemaker.describe_model_package(ModelPackageName=chosen["ModelPackageArn"])


def plan_champion(
    sagemaker: Any, s3: Any, spec: PipelineSpec, state: PipelineState
) -> tuple[dict[str, Any] | None, JobSpec | None]:
    """The described champion, and the evaluation of it that is missing: on the challenger's test data, by its code.

    Nothing is missing where there is no champion, where it was evaluated just so when it was registered, or where it
    is this very model, a provider's (its weights are not ours to ask), or stepforge did not register it.
    """
    package = find_champion(sagemaker, spec.group)
    metadata = None if package is None else PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
    if package is None or metadata is None or metadata.model_sha256 == state.stages[-1].artifact.sha256:
        return package, None
    if ExternalLineage.of(package["CustomerMetadataProperties"]) is not None:
        return package, None
    own = PipelineState.model_validate({**state.model_dump(), "evaluation": None})
    challenger = next_job(spec, own)
    assert challenger is not None  # its evaluation was taken out
    artifact = ArtifactRef(
        uri=package["InferenceSpecification"]["Containers"][0]["ModelDataSource"]["S3DataSource"]["S3Uri"],
        sha256=metadata.model_sha256,
    )
    job = challenger.model_copy(update={"inputs": {**challenger.inputs, "model": artifact}})
    known = read_report(s3, _evaluation_ref(metadata), EVALUATION, EvaluationReport)
    return package, None if known.spec_sha256 == job.identity else job


def compare_with_champion(
    sagemaker: Any, s3: Any, spec: PipelineSpec, state: PipelineState, champion: Champion | None = None
) -> Compared:
    """Read both evaluations and decide: record by record where both were asked the same."""
    mine = _outcome(state.evaluation).artifact
    if champion is not None and champion.package_arn is not None:
        # What serves may change while it is evaluated: the one that was evaluated counts.
        package: dict[str, Any] | None = sagemaker.describe_model_package(ModelPackageName=champion.package_arn)
    else:
        package = find_champion(sagemaker, spec.group)
    anew = None if champion is None or champion.evaluation is None else champion.evaluation.artifact
    comparison = compare_evaluations(s3, mine, package, champion_evaluation=anew)
    if champion is not None and champion.failure is not None:
        said = f"the champion could not be evaluated on this test data: {champion.failure.error}: "
        reasons = (said + champion.failure.cause[:300], *comparison.reasons)
        comparison = comparison.model_copy(update={"reasons": reasons})
    return Compared(state=state, comparison=comparison)


def compare_evaluations(
    s3: Any,
    evaluation: ArtifactRef,
    champion: dict[str, Any] | None,
    *,
    champion_evaluation: ArtifactRef | None = None,
) -> Comparison:
    """A challenger's evaluation against that of the champion's package, or against another one of the champion."""
    report = read_report(s3, evaluation, EVALUATION, EvaluationReport)
    if champion is None:
        return compare(report, None)
    arn = champion["ModelPackageArn"]
    metadata = PackageMetadata.of(champion.get("CustomerMetadataProperties", {}))
    if metadata is None:
        return compare(report, None, champion_arn=arn)
    theirs = champion_evaluation or _evaluation_ref(metadata)
    return compare(
        report,
        read_report(s3, theirs, EVALUATION, EvaluationReport),
        champion_arn=arn,
        cells=(_cells(s3, evaluation), _cells(s3, theirs)),
    )


def _evaluation_ref(metadata: PackageMetadata) -> ArtifactRef:
    return ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)


def _cells(s3: Any, evaluation: ArtifactRef) -> dict[str, dict[str, float]]:
    """What each record scored. Raises InvalidInput where a row is malformed."""
    try:
        return cells_of(
            CompletionRow.model_validate_json(line) for line in read_file(s3, evaluation, ROWS).splitlines()
        )
    except ValueError as error:
        raise InvalidInput(f"{folder(evaluation.uri)}{ROWS} has a malformed row: {error}") from error


def metadata_of(spec: PipelineSpec, state: PipelineState) -> PackageMetadata:
    """What travels with the version. Raises InvalidInput where the pipeline is not done."""
    if not state.stages:
        raise InvalidInput("a pipeline without a finished stage has no model to register")
    evaluation, model = _outcome(state.evaluation), state.stages[-1]
    return PackageMetadata(
        pipeline_sha256=state.pipeline_sha256,
        model_sha256=model.artifact.sha256,
        evaluation_sha256=evaluation.artifact.sha256,
        evaluation_uri=folder(evaluation.artifact.uri),
        dataset_sha256=_outcome(state.dataset).artifact.sha256,
        training_job_arn=model.arn,
        domain=spec.domain,
    )


def register(
    sagemaker: Any, s3: Any, spec: PipelineSpec, finished: Compared, *, image: str, instance_type: str
) -> Registered:
    """Register the last stage's model as PendingManualApproval, or adopt the version that holds it already.

    The group is made where it does not exist: a user's own domain has none yet.
    """
    metadata = metadata_of(spec, finished.state)
    ensure_group(sagemaker, spec.group, domain=spec.domain)
    for summary in summaries(sagemaker, spec.group):
        package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
        held = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
        if held and (held.pipeline_sha256, held.model_sha256) == (metadata.pipeline_sha256, metadata.model_sha256):
            return registered(package, adopted=True)
    report = read_report(s3, _outcome(finished.state.evaluation).artifact, EVALUATION, EvaluationReport)
    request = package_request(spec, finished, metadata, report, image=image, instance_type=instance_type)
    arn = sagemaker.create_model_package(**request)["ModelPackageArn"]
    return registered(sagemaker.describe_model_package(ModelPackageName=arn), adopted=False)


def package_request(
    spec: PipelineSpec,
    finished: Compared,
    metadata: PackageMetadata,
    report: EvaluationReport,
    *,
    image: str,
    instance_type: str,
) -> dict[str, Any]:
    """The request of CreateModelPackage. Pure."""
    model = finished.state.stages[-1].artifact
    source = {"S3Uri": folder(model.uri), "S3DataType": "S3Prefix", "CompressionType": "None"}
    verdict = "better than the champion" if finished.comparison.better else "not better than the champion"
    if finished.comparison.champion is None:
        verdict = "the first of its group"
    request = {
        "ModelPackageGroupName": spec.group,
        "ModelPackageDescription": f"{spec.domain}, {' -> '.join(s.name for s in spec.stages)}: {verdict}"[:1024],
        "ModelApprovalStatus": "PendingManualApproval",
        "ModelLifeCycle": {"Stage": "Development", "StageStatus": "PendingApproval"},
        "InferenceSpecification": {
            "Containers": [{"Image": image, "ModelDataSource": {"S3DataSource": source}}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
            "SupportedRealtimeInferenceInstanceTypes": [instance_type],
        },
        "ModelMetrics": {
            "ModelQuality": {
                "Statistics": {"ContentType": "application/json", "S3Uri": metadata.evaluation_uri + EVALUATION}
            }
        },
        "ModelCard": {
            "ModelCardContent": json.dumps(model_card(spec, finished, metadata, report), sort_keys=True),
            "ModelCardStatus": "Draft",
        },
        "MetadataProperties": {"GeneratedBy": metadata.training_job_arn},
        "CustomerMetadataProperties": {**metadata.properties(), CHAMPION_GATE: finished.comparison.verdict},
    }
    # Of the whole request: a token that comes back with another request is refused.
    return {**request, "ClientToken": digest(request)[:TOKEN_LENGTH]}


def model_card(
    spec: PipelineSpec, finished: Compared, metadata: PackageMetadata, report: EvaluationReport
) -> dict[str, Any]:
    """Content of the model card.

    Schema: https://docs.aws.amazon.com/sagemaker/latest/dg/model-registry-details.html#model-card-schema, in which a
    package's card has `model_creator` and `model_artifact` alone in its overview.
    """
    stages = ", then ".join(f"{stage.name} ({stage.type}, {stage.steps} steps)" for stage in spec.stages)
    return {
        "model_overview": {
            "model_creator": "stepforge",
            "model_artifact": [folder(finished.state.stages[-1].artifact.uri)],
        },
        "intended_uses": {
            "purpose_of_model": f"Solve problems of the domain {spec.domain!r} step by step.",
            "intended_uses": f"Prompts in the form of the domain {spec.domain!r}; its verifier checks every answer.",
            "factors_affecting_model_efficiency": "Kinds of problem that the data lack; see the split test_new.",
            "risk_rating": "Unknown",
            "explanations_for_risk_rating": "Not assessed: that is for the person who approves.",
        },
        "training_details": {
            "training_observations": f"Trained by {stages}, on the dataset {metadata.dataset_sha256}."
        },
        "evaluation_details": [
            {
                "name": "held-out splits",
                "evaluation_observation": "; ".join(finished.comparison.reasons)[:2000],
                "datasets": [metadata.evaluation_uri],
                "metric_groups": [{"name": "scores", "metric_data": metrics_of(report.scores)}],
            }
        ],
        "additional_information": {"custom_details": metadata.properties()},
    }


def ensure_group(sagemaker: Any, group: str, *, domain: str) -> None:
    if existing(sagemaker.describe_model_package_group, ModelPackageGroupName=group) is None:
        sagemaker.create_model_package_group(
            ModelPackageGroupName=group, ModelPackageGroupDescription=f"Models of the domain {domain}"
        )


def _outcome(outcome: JobOutcome | None) -> JobOutcome:
    if outcome is None:
        raise InvalidInput("the pipeline is not done: its dataset or evaluation has no outcome yet")
    return outcome


def registered(package: dict[str, Any], *, adopted: bool) -> Registered:
    return Registered(
        package_arn=package["ModelPackageArn"],
        group=package["ModelPackageGroupName"],
        version=package["ModelPackageVersion"],
        adopted=adopted,
    )
