"""What SageMaker and Step Functions say now."""

from __future__ import annotations

from typing import Any

from stepforge.absence import existing
from stepforge.contracts.registry import APPROVED_AT, Promotion
from stepforge.errors import ArtifactRefused
from stepforge.machines import executions
from stepforge.machines.packages import summaries

OWNER_TAG = "stepforge:execution"
"""Tag on the candidate: the ARN of the promotion that tries it. It is the lock between promotions."""


def approved(sagemaker: Any, promotion: Promotion) -> dict[str, Any]:
    """The package as it is now. Raises ArtifactRefused where it is not approved."""
    package: dict[str, Any] = sagemaker.describe_model_package(ModelPackageName=promotion.package_arn)
    check_approved(package)
    return package


def check_approved(package: dict[str, Any]) -> None:
    if package["ModelApprovalStatus"] != "Approved":
        raise ArtifactRefused(f"{package['ModelPackageArn']} is {package['ModelApprovalStatus']} by now, not Approved")


def approved_later(sagemaker: Any, group: str, approved_at: str | None) -> str | None:
    """Why an approval counts no more: a version that serves was approved after it. None where it counts."""
    if approved_at is None:
        return None
    for other in summaries(sagemaker, group):
        if other.get("ModelLifeCycle", {}).get("Stage") != "Production":
            continue
        serves = sagemaker.describe_model_package(ModelPackageName=other["ModelPackageArn"])
        if approved_at < serves.get("CustomerMetadataProperties", {}).get(APPROVED_AT, ""):
            return f"version {serves['ModelPackageVersion']}, which serves, was approved later"
    return None


def hold_order(sagemaker: Any, promotion: Promotion) -> None:
    """Raises ArtifactRefused where an approval that came later was promoted while this promotion waited."""
    if (reason := approved_later(sagemaker, promotion.group, promotion.approved_at)) is not None:
        raise ArtifactRefused(f"{promotion.package_arn} is not promoted over it: {reason}")


def owner_of(sagemaker: Any, arn: str) -> str:
    """ARN of the execution that a candidate belongs to; empty where it has no such tag."""
    tags = (existing(sagemaker.list_tags, ResourceArn=arn) or {}).get("Tags", ())
    return next((tag["Value"] for tag in tags if tag["Key"] == OWNER_TAG), "")


def runs(states: Any, execution_arn: str) -> bool:
    found = executions.describe(states, execution_arn) if execution_arn else None
    return found is not None and found.status == "RUNNING"
