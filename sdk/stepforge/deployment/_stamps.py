"""What a promotion writes on its package."""

from __future__ import annotations

from typing import Any

from stepforge.contracts.registry import PROMOTION, PROMOTION_EVENT, Promotion, PromotionResult
from stepforge.packages import summaries

_APPROVAL_DESCRIPTION = 1024


def stamp(sagemaker: Any, promotion: Promotion, result: PromotionResult, reason: str) -> None:
    """Write how the promotion ended on the package; where it was deployed, the champion before it is archived."""
    package = sagemaker.describe_model_package(ModelPackageName=promotion.package_arn)
    properties = {
        **package.get("CustomerMetadataProperties", {}),
        PROMOTION: result,
        PROMOTION_EVENT: promotion.event_id,
    }
    change: dict[str, Any] = {"CustomerMetadataProperties": properties}
    if result == "deployed":
        change["ModelLifeCycle"] = {"Stage": "Production", "StageStatus": "Serving", "StageDescription": reason[:1024]}
    else:
        change["ApprovalDescription"] = f"promotion {result}: {reason}"[:_APPROVAL_DESCRIPTION].replace("\n", " ")
    sagemaker.update_model_package(ModelPackageArn=promotion.package_arn, **change)
    if result != "deployed":
        return
    for other in summaries(sagemaker, promotion.group):
        arn = other["ModelPackageArn"]
        if arn != promotion.package_arn and other.get("ModelLifeCycle", {}).get("Stage") == "Production":
            archived = {
                "Stage": "Archived",
                "StageStatus": "Superseded",
                "StageDescription": f"by version {promotion.version}",
            }
            sagemaker.update_model_package(ModelPackageArn=arn, ModelLifeCycle=archived)
