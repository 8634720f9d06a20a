"""What a version is called where it serves, and which one a group goes back to."""

from __future__ import annotations

import re
from typing import Any, Literal

from stepforge.absence import existing
from stepforge.contracts.base import digest
from stepforge.contracts.names import endpoint_name
from stepforge.contracts.registry import ExternalLineage, PackageMetadata, Promotion
from stepforge.contracts.serving import Fleet
from stepforge.machines.deployment._surfaces import MOVING, is_shared, surface
from stepforge.machines.packages import summaries

Serving = Literal["serves", "moves", "gone"]
_NAME = re.compile(r".+-v(\d+)-[0-9a-f]{12}")


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
        if name is not None and existing(sagemaker.describe_model, ModelName=name) is not None:
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


def version_of(config: str) -> int | None:
    """The version whose `serving_name` this is; None where it is none. Pure."""
    found = _NAME.fullmatch(config)
    return None if found is None else int(found[1])


def serving(sagemaker: Any, package: dict[str, Any], fleet: Fleet) -> Serving:
    """Whether a described package in Production serves: `gone` where its endpoint is, or serves another version.

    A provider's model always serves, and so does what serves in another mode than the environment's: a person has to
    delete that first. On other instances than the fleet's it serves all the same.
    """
    group = package["ModelPackageGroupName"]
    if ExternalLineage.of(package.get("CustomerMetadataProperties", {})) is not None:
        return "serves"
    if mode_of(sagemaker, group) not in (None, fleet.mode):
        return "serves"
    live = surface(sagemaker, group, fleet).find(endpoint_name(group))
    if live is None or live.status in ("Failed", "Deleting"):
        return "gone"
    if live.status in MOVING:
        return "moves"
    return "serves" if version_of(live.version) == package["ModelPackageVersion"] else "gone"


def mode_of(sagemaker: Any, group: str) -> str | None:
    """The mode of a group's endpoint; None where there is none."""
    found = existing(sagemaker.describe_endpoint, EndpointName=endpoint_name(group))
    if found is None:
        return None
    if is_shared(found["EndpointConfigName"], group):
        return "components"
    return "async" if "AsyncInferenceConfig" in found else "realtime"
