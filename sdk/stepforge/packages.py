"""Model packages: find the champion, and register a challenger once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.artifacts import folder, read_report
from stepforge.champion import compare
from stepforge.contracts.base import Contract, digest
from stepforge.contracts.jobs import ArtifactRef, JobOutcome
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.registry import Comparison, PackageMetadata, Registered
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import InvalidInput

EVALUATION = "evaluation.json"
ROWS = "rows.ndjson"

TOKEN_LENGTH = 36


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
        if not _no_group(error):
            raise


def find_champion(sagemaker: Any, group: str) -> dict[str, Any] | None:
    """The described package that serves now, else the newest Approved one, else None."""
    approved = list(summaries(sagemaker, group, ModelApprovalStatus="Approved"))
    serving = [p for p in approved if p.get("ModelLifeCycle", {}).get("Stage") == "Production"]
    chosen = next(iter(serving or approved), None)
    return None if chosen is None else sagemaker.describe_model_package(ModelPackageName=chosen["ModelPackageArn"])


def evaluation_of(s3: Any, package: dict[str, Any]) -> EvaluationReport | None:
    """The evaluation that a package was registered with; None where stepforge did not register it."""
    metadata = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
    if metadata is None:
        return None
    return read_report(
        s3, ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256), EVALUATION, EvaluationReport
    )


def compare_with_champion(sagemaker: Any, s3: Any, spec: PipelineSpec, state: PipelineState) -> Compared:
    """Read both evaluations and decide."""
    report = read_report(s3, _outcome(state.evaluation).artifact, EVALUATION, EvaluationReport)
    package = find_champion(sagemaker, spec.group)
    if package is None:
        return Compared(state=state, comparison=compare(report, None))
    return Compared(
        state=state, comparison=compare(report, evaluation_of(s3, package), champion_arn=package["ModelPackageArn"])
    )


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
        "CustomerMetadataProperties": metadata.properties(),
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
    metrics = [
        {"name": f"{s.split} {s.decoding} {s.metric}", "type": "number", "value": s.value.mean,
         "notes": f"95 % interval [{s.value.low:.4f}, {s.value.high:.4f}] over {s.value.count} records"}
        for s in report.scores
    ]  # fmt: skip
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
                "metric_groups": [{"name": "scores", "metric_data": metrics}],
            }
        ],
        "additional_information": {"custom_details": metadata.properties()},
    }


def ensure_group(sagemaker: Any, group: str, *, domain: str) -> None:
    try:
        sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    except AwsError as error:
        if not _no_group(error):
            raise
        sagemaker.create_model_package_group(
            ModelPackageGroupName=group, ModelPackageGroupDescription=f"Models of the domain {domain}"
        )


def _no_group(error: AwsError) -> bool:
    return "does not exist" in str(error) or "not found" in str(error).lower()


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
