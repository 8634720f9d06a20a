"""What a version is called where it serves, and which one a group goes back to."""

from __future__ import annotations

from typing import Any

from stepforge.contracts.base import digest
from stepforge.contracts.names import endpoint_name
from stepforge.contracts.registry import ExternalLineage, PackageMetadata, Promotion
from stepforge.contracts.serving import Fleet
from stepforge.machines.deployment._lookups import exists
from stepforge.machines.deployment._surfaces import surface
from stepforge.machines.packages import summaries


def serving_name(promotion: Promotion, model_sha256: str, image: str, fleet: Fleet) -> str:
    """`{group}-v{version}-{12 hex of what serves}`, at most 63 characters."""
    decides: list[Any] = [model_sha256, image, fleet.instance_type]
    decides += [fleet.instances] if fleet.instances > 1 else []
    decides += [fleet.model_dump(mode="json")] if fleet.mode != "realtime" else []
    tail = f"-v{promotion.version}-{digest(decides)[:12]}"
    return promotion.group[: 63 - len(tail)].rstrip("-") + tail


def previous_config(sagemaker: Any, promotion: Promotion, config: str, fleet: Fleet) -> str | None:
    """What the live endpoint goes back to where the promotion of `config` fails; None where there is nothing.

    The version whose stage is Production, where it can serve: a promotion that was cut off may have left another on the
    endpoint, which nobody has tried there. Otherwise what serves now, unless it is this very version. It counts only
    while the promotion holds the candidate: before, another one may still change what is live.
    """
    for summary in summaries(sagemaker, promotion.group):
        if summary.get("ModelLifeCycle", {}).get("Stage") != "Production":
            continue
        package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
        name = version_name(package, promotion, fleet)
        if name is not None and exists(sagemaker.describe_model, ModelName=name) is not None:
            return name
    live = surface(sagemaker, promotion.group, fleet).find(endpoint_name(promotion.group))
    return None if live is None or live.version == config else live.version


def version_name(package: dict[str, Any], promotion: Promotion, fleet: Fleet) -> str | None:
    """What serves a described package of the promotion's group; None where that is not ours to serve."""
    properties = package.get("CustomerMetadataProperties", {})
    metadata = PackageMetadata.of(properties)
    if metadata is None or ExternalLineage.of(properties) is not None:
        return None
    image = package["InferenceSpecification"]["Containers"][0]["Image"]
    served = promotion.model_copy(update={"version": package["ModelPackageVersion"]})
    return serving_name(served, metadata.model_sha256, image, fleet)
