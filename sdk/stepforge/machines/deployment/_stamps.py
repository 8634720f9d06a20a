"""What a promotion writes on its package: the stage of its life, how it ended and why.

A stamp depends on what the package says now, so that it may come twice, or late, after another promotion's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stepforge.contracts.registry import (
    APPROVED_AT,
    PROMOTION,
    PROMOTION_EVENT,
    SERVES_SINCE,
    SUPERSEDED_AT,
    Promotion,
    PromotionStep,
    Stage,
    StageStatus,
)
from stepforge.machines.deployment._lookups import check_approved, hold_order
from stepforge.machines.packages import summaries

_DESCRIPTION = 1024
_ENDED: dict[PromotionStep, StageStatus] = {"refused": "Refused", "failed": "Failed", "cut off": "CutOff"}


def stamp(sagemaker: Any, promotion: Promotion, step: PromotionStep, reason: str) -> None:
    """Write where the promotion of a package stands; where it was deployed, the champion before it is archived.

    Raises ArtifactRefused where it was deployed, and its approval was taken back, or a later one promoted, before
    anybody wrote so.
    """
    package = sagemaker.describe_model_package(ModelPackageName=promotion.package_arn)
    if step == "trying":
        change = _trying(package, promotion)
    elif step == "deployed":
        if not _is_written(package, promotion):
            check_approved(package)
            # What a provider serves holds no candidate, and so waits for nobody.
            hold_order(sagemaker, promotion)
        change = {**_result(package, promotion, step), **life("Production", "Serving", reason)}
        change["CustomerMetadataProperties"][SERVES_SINCE] = _now()
    else:
        change = _ended(package, promotion, step, reason)
    if change:
        sagemaker.update_model_package(ModelPackageArn=promotion.package_arn, **change)
    if step != "deployed":
        return
    for other in summaries(sagemaker, promotion.group):
        arn = other["ModelPackageArn"]
        if arn != promotion.package_arn and other.get("ModelLifeCycle", {}).get("Stage") == "Production":
            known = sagemaker.describe_model_package(ModelPackageName=arn).get("CustomerMetadataProperties", {})
            superseded = life("Archived", "Superseded", f"by version {promotion.version}")
            superseded["CustomerMetadataProperties"] = {**known, SUPERSEDED_AT: _now()}
            sagemaker.update_model_package(ModelPackageArn=arn, **superseded)


def life(stage: Stage, status: StageStatus, description: str) -> dict[str, Any]:
    """The part of UpdateModelPackage that moves a package to a stage. Pure."""
    text = " ".join(description.split())[:_DESCRIPTION]
    return {"ModelLifeCycle": {"Stage": stage, "StageStatus": status, "StageDescription": text}}


def out_of_staging(package: dict[str, Any], status: StageStatus, reason: str) -> dict[str, Any]:
    """The change by which a version that is tried no more goes back to where it was. Pure."""
    cycle = package.get("ModelLifeCycle", {})
    served = cycle.get("Stage") == "Archived" or cycle.get("StageStatus") == "TryingAgain"
    return life("Archived" if served else "Development", status, reason)


def _trying(package: dict[str, Any], promotion: Promotion) -> dict[str, Any]:
    """The approval that is tried is named, so that a promotion that is cut off is known by it."""
    properties = {**package.get("CustomerMetadataProperties", {}), **_approval(package, promotion)}
    change: dict[str, Any] = {"CustomerMetadataProperties": properties}
    if properties.pop(PROMOTION, None) is not None:
        change["CustomerMetadataPropertiesToRemove"] = [PROMOTION]
    cycle = package.get("ModelLifeCycle", {})
    if cycle.get("Stage") in ("Production", "Staging"):
        return change
    status: StageStatus = "TryingAgain" if cycle.get("Stage") == "Archived" else "Trying"
    return {**change, **life("Staging", status, "its promotion runs")}


def _ended(package: dict[str, Any], promotion: Promotion, step: PromotionStep, reason: str) -> dict[str, Any]:
    properties, cycle = package.get("CustomerMetadataProperties", {}), package.get("ModelLifeCycle", {})
    if PROMOTION not in properties and properties.get(PROMOTION_EVENT, promotion.event_id) != promotion.event_id:
        # The promotion of a later approval tries it now, and the word is with that one.
        return {}
    moved = out_of_staging(package, _ENDED[step], reason)
    if step == "cut off":
        return moved if cycle.get("Stage") == "Staging" else {}
    said = f"promotion {step}: {reason}"[:_DESCRIPTION].replace("\n", " ")
    change = _result(package, promotion, step)
    # Who rejected it has said why, and `on_rejection` may be yet to read it.
    if package["ModelApprovalStatus"] != "Rejected":
        change["ApprovalDescription"] = said
    # One that serves is not moved by a promotion that found nothing to do.
    stays = cycle.get("Stage") == "Production" or cycle.get("StageStatus") == "Rejected"
    return {**change, **({} if stays else moved)}


def _result(package: dict[str, Any], promotion: Promotion, step: PromotionStep) -> dict[str, Any]:
    known = package.get("CustomerMetadataProperties", {})
    return {"CustomerMetadataProperties": {**known, PROMOTION: step, **_approval(package, promotion)}}


def _is_written(package: dict[str, Any], promotion: Promotion) -> bool:
    """A stamp may come twice: what is rejected between the two serves."""
    properties = package.get("CustomerMetadataProperties", {})
    return properties.get(PROMOTION) == "deployed" and properties.get(PROMOTION_EVENT) == promotion.event_id


def _approval(package: dict[str, Any], promotion: Promotion) -> dict[str, str]:
    """Which approval is tried, and when the newest that was came."""
    known = package.get("CustomerMetadataProperties", {}).get(APPROVED_AT, "")
    newest = max(known, promotion.approved_at or "")
    return {PROMOTION_EVENT: promotion.event_id, **({APPROVED_AT: newest} if newest else {})}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
