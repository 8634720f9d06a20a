"""A tuned model in the Model Registry: a package without weights of ours, with its lineage at the provider."""

from __future__ import annotations

import json
from typing import Any

from stepforge.artifacts import folder, read_report
from stepforge.contracts.base import digest
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.registry import CHAMPION_GATE, Comparison, ExternalLineage, PackageMetadata, Registered
from stepforge.contracts.reports import EvaluationReport
from stepforge.machines.cards import metrics_of
from stepforge.machines.packages import (
    EVALUATION,
    TOKEN_LENGTH,
    compare_evaluations,
    ensure_group,
    find_champion,
    registered,
    summaries,
)


def register_external(
    sagemaker: Any, s3: Any, *, group: str, metadata: PackageMetadata, lineage: ExternalLineage
) -> tuple[Registered, Comparison]:
    """Register as PendingManualApproval beside our own models, or adopt the version that holds this model already.

    The champion gate compares both evaluations, whichever cloud the champion is in.
    """
    evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    report = read_report(s3, evaluation, EVALUATION, EvaluationReport)
    ensure_group(sagemaker, group, domain=metadata.domain)
    comparison = compare_evaluations(s3, evaluation, find_champion(sagemaker, group))
    for summary in summaries(sagemaker, group):
        package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
        held = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
        if held and (held.pipeline_sha256, held.model_sha256) == (metadata.pipeline_sha256, metadata.model_sha256):
            return registered(package, adopted=True), comparison
    request = external_request(group, metadata, lineage, comparison, report)
    arn = sagemaker.create_model_package(**request)["ModelPackageArn"]
    return registered(sagemaker.describe_model_package(ModelPackageName=arn), adopted=False), comparison


def external_request(
    group: str,
    metadata: PackageMetadata,
    lineage: ExternalLineage,
    comparison: Comparison,
    report: EvaluationReport,
) -> dict[str, Any]:
    """The request of CreateModelPackage. Pure. Without an InferenceSpecification: there is nothing to deploy."""
    verdict = "better than the champion" if comparison.better else "not better than the champion"
    if comparison.champion is None:
        verdict = "the first of its group"
    properties = {**metadata.properties(), **lineage.properties()}
    fake = " [local fake: nothing was trained]" if lineage.external_local_fake == "yes" else ""
    about = f"{metadata.domain}, {lineage.external_base} tuned at {lineage.external_provider}: {verdict}{fake}"
    request = {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": about[:1024],
        "ModelApprovalStatus": "PendingManualApproval",
        "ModelLifeCycle": {"Stage": "Development", "StageStatus": "PendingApproval"},
        "ModelMetrics": {
            "ModelQuality": {
                "Statistics": {"ContentType": "application/json", "S3Uri": folder(metadata.evaluation_uri) + EVALUATION}
            }
        },
        "ModelCard": {
            "ModelCardContent": json.dumps(_card(metadata, lineage, comparison, report), sort_keys=True),
            "ModelCardStatus": "Draft",
        },
        "MetadataProperties": {"GeneratedBy": lineage.external_job[:1024]},
        "CustomerMetadataProperties": {**properties, CHAMPION_GATE: comparison.verdict},
    }
    return {**request, "ClientToken": digest(request)[:TOKEN_LENGTH]}


def _card(
    metadata: PackageMetadata, lineage: ExternalLineage, comparison: Comparison, report: EvaluationReport
) -> dict[str, Any]:
    """As `packages.model_card`, of a model whose weights the provider keeps."""
    trained = f"Tuned from {lineage.external_base} at {lineage.external_provider} for {lineage.external_cost_usd} USD"
    return {
        "model_overview": {"model_creator": "stepforge"},
        "intended_uses": {
            "purpose_of_model": f"Solve problems of the domain {metadata.domain!r} step by step.",
            "intended_uses": f"Prompts in the form of the domain {metadata.domain!r}; its verifier checks each answer.",
            "risk_rating": "Unknown",
            "explanations_for_risk_rating": "Not assessed: that is for the person who approves.",
        },
        "training_details": {"training_observations": f"{trained}, on the dataset {metadata.dataset_sha256}."},
        "evaluation_details": [
            {
                "name": "held-out splits",
                "evaluation_observation": "; ".join(comparison.reasons)[:2000],
                "datasets": [metadata.evaluation_uri],
                "metric_groups": [{"name": "scores", "metric_data": metrics_of(report.scores)}],
            }
        ],
        "additional_information": {"custom_details": {**metadata.properties(), **lineage.properties()}},
    }
