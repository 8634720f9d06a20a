"""Inference components: the API. The processes that answer are in `serving.py`.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceComponent.html and its neighbours. One copy
of one model; not covered: containers without a model, adapters, and whether the components fit on the instance.
"""

from __future__ import annotations

import time
from typing import Any

from stepforge.local.sagemaker import endpoints
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import validation
from stepforge.local.sagemaker.listing import page

Json = Any


def create(context: Context, request: Json) -> Json:
    name = request["InferenceComponentName"]
    arn = context.arn("inference-component", name)
    endpoint = endpoints.endpoint(context, request["EndpointName"])
    if endpoint["EndpointStatus"] != "InService":
        raise validation(f"Endpoint {request['EndpointName']} is {endpoint['EndpointStatus']}, not InService")
    variant = endpoints.config(context, endpoint["EndpointConfigName"])["ProductionVariants"][0]
    if "ModelName" in variant:
        raise validation(f"the variant of endpoint {request['EndpointName']} has a model: it takes no components")
    if request.get("VariantName") != variant["VariantName"]:
        raise validation(f"VariantName must be {variant['VariantName']!r}, given {request.get('VariantName')!r}")
    if "Specification" not in request or "RuntimeConfig" not in request:
        raise validation("Specification and RuntimeConfig are both needed: adapters are not covered here")
    _check(context, request["Specification"])
    now = time.time()
    with context.store.transaction():
        if context.store.get("component", name) is not None:
            raise validation(f'Cannot create already existing inference component "{arn}".')
        document = {
            "InferenceComponentName": name,
            "InferenceComponentArn": arn,
            "EndpointName": request["EndpointName"],
            "EndpointArn": endpoint["EndpointArn"],
            "VariantName": variant["VariantName"],
            "Specification": request["Specification"],
            "RuntimeConfig": _copies(request["RuntimeConfig"]),
            "InferenceComponentStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        context.store.put("component", name, document)
        context.store.tag(arn, request.get("Tags", []))
    return {"InferenceComponentArn": arn}


def _check(context: Context, specification: Json) -> None:
    if "ModelName" not in specification or "ComputeResourceRequirements" not in specification:
        raise validation("Specification needs ModelName and ComputeResourceRequirements here")
    endpoints.model(context, specification["ModelName"])


def _copies(given: Json) -> Json:
    return {"DesiredCopyCount": given["CopyCount"], "CurrentCopyCount": given["CopyCount"]}


def component(context: Context, name: str) -> Json:
    known = context.store.get("component", name)
    if known is None:
        raise validation(f'Could not find inference component "{context.arn("inference-component", name)}".')
    return known


def describe(context: Context, request: Json) -> Json:
    return component(context, request["InferenceComponentName"])


def list_(context: Context, request: Json) -> Json:
    filters = {
        "StatusEquals": "InferenceComponentStatus",
        "EndpointNameEquals": "EndpointName",
        "VariantNameEquals": "VariantName",
    }
    found = context.store.all("component")
    return page(request, found, "InferenceComponents", name="InferenceComponentName", filters=filters)


def changes_replica(request: Json) -> bool:
    """Whether an update needs another process: a change of the number of copies alone does not, here."""
    return "Specification" in request


def update(context: Context, request: Json) -> Json:
    if changes_replica(request):
        _check(context, request["Specification"])
    with context.store.transaction():
        known = component(context, request["InferenceComponentName"])
        if known["InferenceComponentStatus"] not in ("InService", "Failed"):
            raise validation(
                f'Cannot update inference component "{known["InferenceComponentArn"]}" that is '
                f"{known['InferenceComponentStatus']}."
            )
        if changes_replica(request):
            known |= {"InferenceComponentStatus": "Updating", "Next": request["Specification"]}
        if "RuntimeConfig" in request:
            known["RuntimeConfig"] = _copies(request["RuntimeConfig"])
        if deployment := request.get("DeploymentConfig"):
            known["LastDeploymentConfig"] = known["NextDeployment"] = deployment
        known["LastModifiedTime"] = time.time()
        known.pop("FailureReason", None)
        context.store.put("component", known["InferenceComponentName"], known)
    return {"InferenceComponentArn": known["InferenceComponentArn"]}


def delete(context: Context, request: Json) -> Json:
    with context.store.transaction():
        known = component(context, request["InferenceComponentName"])
        context.store.delete("component", known["InferenceComponentName"])
        context.store.untag(known["InferenceComponentArn"])
    return {}
