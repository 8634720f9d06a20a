"""Model package groups and packages.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateModelPackage.html and its neighbours. Packages
without a group, and validation of packages, are not covered.
"""

from __future__ import annotations

import re
import time
from typing import Any

from stepforge.local.sagemaker.context import Context, idempotent
from stepforge.local.sagemaker.errors import ServiceError, not_found, validation
from stepforge.local.sagemaker.listing import page

Json = Any


def create_group(context: Context, request: Json) -> Json:
    name = request["ModelPackageGroupName"]
    arn = context.arn("model-package-group", name)
    with context.store.transaction():
        if context.store.get("group", name) is not None:
            raise validation(f"Model Package Group already exists: {arn}")
        group = {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": arn,
            "ModelPackageGroupDescription": request.get("ModelPackageGroupDescription"),
            "CreationTime": time.time(),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
            "LastVersion": 0,
        }
        context.store.put("group", name, group)
        context.store.tag(arn, request.get("Tags", []))
    return {"ModelPackageGroupArn": arn}


def group(context: Context, name: str) -> Json:
    known = context.store.get("group", name.rpartition("/")[2])
    if known is None:
        raise validation(f"Model Package Group {name} does not exist.")
    return known


def describe_group(context: Context, request: Json) -> Json:
    return group(context, request["ModelPackageGroupName"])


def list_groups(context: Context, request: Json) -> Json:
    return page(request, context.store.all("group"), "ModelPackageGroupSummaryList", name="ModelPackageGroupName")


def delete_group(context: Context, request: Json) -> Json:
    with context.store.transaction():
        known = group(context, request["ModelPackageGroupName"])
        name = known["ModelPackageGroupName"]
        if any(package["ModelPackageGroupName"] == name for package in context.store.all("package")):
            raise ServiceError(
                "ConflictException", f"Model Package Group {name} still has model packages: delete them first"
            )
        context.store.delete("group", name)
        context.store.untag(known["ModelPackageGroupArn"])
    return {}


def create(context: Context, request: Json) -> Json:
    return idempotent(context, "CreateModelPackage", request, lambda: _create(context, request))


def _create(context: Context, request: Json) -> Json:
    if "ModelPackageGroupName" not in request:
        raise validation("ModelPackageGroupName is missing: only versioned packages are kept here")
    now = time.time()
    with context.store.transaction():
        owner = group(context, request["ModelPackageGroupName"])
        name = owner["ModelPackageGroupName"]
        owner["LastVersion"] += 1
        version = owner["LastVersion"]
        arn = context.arn("model-package", f"{name}/{version}")
        made = {key: value for key, value in request.items() if key not in ("Tags", "ClientToken", "ModelPackageName")}
        made |= {
            "ModelPackageName": name,
            "ModelPackageGroupName": name,
            "ModelPackageVersion": version,
            "ModelPackageArn": arn,
            "CreationTime": now,
            "LastModifiedTime": now,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "ModelApprovalStatus": request.get("ModelApprovalStatus", "PendingManualApproval"),
            "CreatedBy": {},
        }
        context.store.put("group", name, owner)
        context.store.put("package", arn, made)
        context.store.tag(arn, request.get("Tags", []))
        _post(context, made, [])
    return {"ModelPackageArn": arn}


def package(context: Context, name: str) -> Json:
    """A package by its ARN, or as `group/version`."""
    arn = name if name.startswith("arn:") else context.arn("model-package", name)
    known = context.store.get("package", arn)
    if known is None:
        if not re.search(r"/\d+$", arn):
            raise validation(
                f"ModelPackageName {name!r} must be the ARN of a version: only versioned packages are kept here"
            )
        raise validation(f"ModelPackage {arn} does not exist.")
    return known


def describe(context: Context, request: Json) -> Json:
    return package(context, request["ModelPackageName"])


def list_(context: Context, request: Json) -> Json:
    packages = context.store.all("package")
    if name := request.get("ModelPackageGroupName"):
        wanted = group(context, name)["ModelPackageGroupName"]
        packages = [item for item in packages if item["ModelPackageGroupName"] == wanted]
    filters = {"ModelApprovalStatus": "ModelApprovalStatus"}
    return page(request, packages, "ModelPackageSummaryList", name="ModelPackageGroupName", filters=filters)


_UPDATED = (
    "ModelApprovalStatus", "ApprovalDescription", "InferenceSpecification", "SourceUri", "ModelCard", "ModelLifeCycle",
    "ModelPackageRegistrationType",
)  # fmt: skip


def update(context: Context, request: Json) -> Json:
    return idempotent(context, "UpdateModelPackage", request, lambda: _update(context, request))


def _update(context: Context, request: Json) -> Json:
    with context.store.transaction():
        known = package(context, request["ModelPackageArn"])
        changed = [name for name in _UPDATED if name in request and known.get(name) != request[name]]
        known |= {name: request[name] for name in _UPDATED if name in request}
        properties = dict(known.get("CustomerMetadataProperties", {}))
        for key in request.get("CustomerMetadataPropertiesToRemove", []):
            properties.pop(key, None)
        properties |= request.get("CustomerMetadataProperties", {})
        if properties != known.get("CustomerMetadataProperties", {}):
            changed.append("CustomerMetadataProperties")
            known["CustomerMetadataProperties"] = properties
        if added := request.get("AdditionalInferenceSpecificationsToAdd"):
            known["AdditionalInferenceSpecifications"] = [*known.get("AdditionalInferenceSpecifications", []), *added]
            changed.append("AdditionalInferenceSpecifications")
        known["LastModifiedTime"] = time.time()
        context.store.put("package", known["ModelPackageArn"], known)
        if changed:
            _post(context, known, changed)
    return {"ModelPackageArn": known["ModelPackageArn"]}


def _post(context: Context, known: Json, changed: list[str]) -> None:
    """https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html"""
    document = {**known, "UpdatedModelPackageFields": changed} if changed else known
    context.post_event(
        "SageMaker Model Package State Change", known["ModelPackageArn"], document, "DescribeModelPackage"
    )


def delete(context: Context, request: Json) -> Json:
    with context.store.transaction():
        known = package(context, request["ModelPackageName"])
        context.store.delete("package", known["ModelPackageArn"])
        context.store.untag(known["ModelPackageArn"])
    return {}


def taggable(context: Context, arn: str) -> str:
    """The ARN, where something of this service has it. Raises ValidationException."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    kinds = {
        "training-job": ("job", name), "model-package-group": ("group", name), "model-package": ("package", arn),
        "model": ("model", name), "endpoint-config": ("config", name), "endpoint": ("endpoint", name),
        "inference-component": ("component", name),
    }  # fmt: skip
    if kind not in kinds or context.store.get(*kinds[kind]) is None:  # type: ignore[arg-type]
        raise not_found(f"the resource {arn!r}")
    return arn
