"""What SageMaker and Step Functions say now."""

from __future__ import annotations

from typing import Any

from stepforge.absence import existing
from stepforge.contracts.registry import Promotion
from stepforge.errors import ArtifactRefused
from stepforge.machines import executions

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


def owner_of(sagemaker: Any, arn: str) -> str:
    """ARN of the execution that a candidate belongs to; empty where it has no such tag."""
    tags = (existing(sagemaker.list_tags, ResourceArn=arn) or {}).get("Tags", ())
    return next((tag["Value"] for tag in tags if tag["Key"] == OWNER_TAG), "")


def runs(states: Any, execution_arn: str) -> bool:
    found = executions.describe(states, execution_arn) if execution_arn else None
    return found is not None and found.status == "RUNNING"
