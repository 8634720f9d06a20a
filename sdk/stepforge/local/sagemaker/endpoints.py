"""Models, endpoint configurations and endpoints: the API. The processes that answer are in `serving.py`.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html and its neighbours. One container
and one production variant; no data capture and no shadow variants. A variant without a model waits for inference
components (`components.py`), and AsyncInferenceConfig makes an endpoint asynchronous (`inference.py`).
"""

from __future__ import annotations

import time
from typing import Any

from stepforge.local.sagemaker import registry
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import validation
from stepforge.local.sagemaker.listing import page

Json = Any


def create_model(context: Context, request: Json) -> Json:
    name = request["ModelName"]
    arn = context.arn("model", name)
    containers = request.get("Containers") or [request[key] for key in ("PrimaryContainer",) if key in request]
    if len(containers) != 1 or ("Containers" in request and "PrimaryContainer" in request):
        raise validation(
            "give one container, as PrimaryContainer or in Containers: inference pipelines are not covered here"
        )
    container(context, containers[0])
    with context.store.transaction():
        if context.store.get("model", name) is not None:
            raise validation(f'Cannot create already existing model "{arn}".')
        document = {key: value for key, value in request.items() if key != "Tags"}
        context.store.put(
            "model", name, {"EnableNetworkIsolation": False, **document, "ModelArn": arn, "CreationTime": time.time()}
        )
        context.store.tag(arn, request.get("Tags", []))
    return {"ModelArn": arn}


def container(context: Context, definition: Json) -> Json:
    """A container definition with what its model package says filled in. Raises ValidationException."""
    if (name := definition.get("ModelPackageName")) is not None:
        package = registry.package(context, name)
        inside = (package.get("InferenceSpecification") or {}).get("Containers", [])
        if len(inside) != 1:
            raise validation(
                f"model package {name!r} must have one container in its InferenceSpecification to be deployed here"
            )
        environment = {**inside[0].get("Environment", {}), **definition.get("Environment", {})}
        definition = {
            **inside[0],
            **{k: v for k, v in definition.items() if k != "ModelPackageName"},
            "Environment": environment,
        }
    if "Image" not in definition:
        raise validation("the container has neither Image nor ModelPackageName")
    context.command(definition["Image"], "serve")
    context.check_variables(definition.get("Environment", {}))
    return definition


def model(context: Context, name: str) -> Json:
    known = context.store.get("model", name)
    if known is None:
        raise validation(f'Could not find model "{context.arn("model", name)}".')
    return known


def describe_model(context: Context, request: Json) -> Json:
    return model(context, request["ModelName"])


def list_models(context: Context, request: Json) -> Json:
    return page(request, context.store.all("model"), "Models", name="ModelName")


def delete_model(context: Context, request: Json) -> Json:
    known = model(context, request["ModelName"])
    with context.store.transaction():
        context.store.delete("model", known["ModelName"])
        context.store.untag(known["ModelArn"])
    return {}


def create_config(context: Context, request: Json) -> Json:
    name = request["EndpointConfigName"]
    arn = context.arn("endpoint-config", name)
    if len(request["ProductionVariants"]) != 1:
        raise validation("ProductionVariants must have one variant: one process answers here")
    variant = request["ProductionVariants"][0]
    if "ModelName" in variant:
        model(context, variant["ModelName"])
    elif "ExecutionRoleArn" not in request:
        raise validation("ExecutionRoleArn is missing: a variant without a model is for inference components")
    elif "AsyncInferenceConfig" in request:
        raise validation("AsyncInferenceConfig does not go with inference components")
    with context.store.transaction():
        if context.store.get("config", name) is not None:
            raise validation(f'Cannot create already existing endpoint configuration "{arn}".')
        document = {key: value for key, value in request.items() if key != "Tags"}
        context.store.put("config", name, {**document, "EndpointConfigArn": arn, "CreationTime": time.time()})
        context.store.tag(arn, request.get("Tags", []))
    return {"EndpointConfigArn": arn}


def config(context: Context, name: str) -> Json:
    known = context.store.get("config", name)
    if known is None:
        raise validation(f'Could not find endpoint configuration "{context.arn("endpoint-config", name)}".')
    return known


def describe_config(context: Context, request: Json) -> Json:
    return config(context, request["EndpointConfigName"])


def list_configs(context: Context, request: Json) -> Json:
    return page(request, context.store.all("config"), "EndpointConfigs", name="EndpointConfigName")


def delete_config(context: Context, request: Json) -> Json:
    known = config(context, request["EndpointConfigName"])
    with context.store.transaction():
        context.store.delete("config", known["EndpointConfigName"])
        context.store.untag(known["EndpointConfigArn"])
    return {}


def create(context: Context, request: Json) -> Json:
    name = request["EndpointName"]
    arn = context.arn("endpoint", name)
    config(context, request["EndpointConfigName"])
    now = time.time()
    with context.store.transaction():
        if context.store.get("endpoint", name) is not None:
            raise validation(f'Cannot create already existing endpoint "{arn}".')
        document = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": request["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        context.store.put("endpoint", name, document)
        context.store.tag(arn, request.get("Tags", []))
    return {"EndpointArn": arn}


def endpoint(context: Context, name: str) -> Json:
    known = context.store.get("endpoint", name)
    if known is None:
        raise validation(f'Could not find endpoint "{context.arn("endpoint", name)}".')
    return known


def describe(context: Context, request: Json) -> Json:
    known = endpoint(context, request["EndpointName"])
    if "Variant" in known:
        variant = known["Variant"]
        known["ProductionVariants"] = [
            {
                "VariantName": variant["VariantName"],
                "CurrentWeight": 1.0,
                "DesiredWeight": 1.0,
                "CurrentInstanceCount": 1,
                "DesiredInstanceCount": 1,
            }
        ]
    served = context.store.get("config", known["EndpointConfigName"]) or {}
    if "AsyncInferenceConfig" in served:
        known["AsyncInferenceConfig"] = served["AsyncInferenceConfig"]
    return known


def list_(context: Context, request: Json) -> Json:
    return page(
        request,
        context.store.all("endpoint"),
        "Endpoints",
        name="EndpointName",
        filters={"StatusEquals": "EndpointStatus"},
    )


def update(context: Context, request: Json) -> Json:
    config(context, request["EndpointConfigName"])
    with context.store.transaction():
        known = endpoint(context, request["EndpointName"])
        if known["EndpointStatus"] not in ("InService", "Failed"):
            raise validation(f'Cannot update in-progress endpoint "{known["EndpointArn"]}".')
        known |= {"EndpointStatus": "Updating", "Next": request["EndpointConfigName"], "LastModifiedTime": time.time()}
        if deployment := request.get("DeploymentConfig"):
            known["LastDeploymentConfig"] = known["NextDeployment"] = deployment
        known.pop("FailureReason", None)
        context.store.put("endpoint", known["EndpointName"], known)
    return {"EndpointArn": known["EndpointArn"]}


def delete(context: Context, request: Json) -> Json:
    known = endpoint(context, request["EndpointName"])
    if known["EndpointStatus"] in ("Updating", "RollingBack", "Creating"):
        raise validation(f'Cannot update in-progress endpoint "{known["EndpointArn"]}".')
    held = [
        c["InferenceComponentName"] for c in context.store.all("component") if c["EndpointArn"] == known["EndpointArn"]
    ]
    if held:
        raise validation(f"Endpoint {known['EndpointName']} has the inference components {held}: delete them first")
    with context.store.transaction():
        context.store.delete("endpoint", known["EndpointName"])
        context.store.untag(known["EndpointArn"])
    return {}
