"""Small real fakes of AWS services, for what moto lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from botocore.exceptions import ClientError

from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.registry import ExternalLineage

REGION_ARN = "arn:aws:sagemaker:us-east-1:123456789012"

TUNE = ExternalLineage(
    external_provider="sagemaker",
    external_job="j",
    external_model="m",
    external_handle="sf-1",
    external_base="b",
    external_key="sf-1",
    external_request_uri="s3://bucket/finetune/requests/1.json",
    external_cost_usd="3",
).properties()
"""Properties of a package whose model SageMaker tuned without a server of ours."""


def refusal(operation: str, message: str, code: str = "ValidationException") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


DECIDING = ("AlgorithmSpecification", "InputDataConfig", "OutputDataConfig", "CheckpointConfig", "Environment")


def described(request: dict[str, Any]) -> dict[str, Any]:
    """What DescribeTrainingJob repeats of CreateTrainingJob's parameters, as far as it decides which job it is."""
    return {key: request[key] for key in DECIDING if key in request}


def of_request(request: JobRequest) -> dict[str, Any]:
    """As `described`, of the job that a request creates."""
    bucket = request.spec_uri.split("/")[2]
    sources = {name: {"S3DataSource": {"S3Uri": uri}} for name, uri in request.channels.items()}
    return {
        "AlgorithmSpecification": {"TrainingImage": request.image, "TrainingInputMode": "File"},
        "InputDataConfig": [{"ChannelName": name, "DataSource": source} for name, source in sources.items()],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/jobs"},
        "CheckpointConfig": {"S3Uri": f"s3://{bucket}/checkpoints/{request.prefix}/"},
        "Environment": {"STEPFORGE_REQUEST_ID": "r"},
    }


class FakeSageMaker:
    """Jobs, packages, models and endpoints in memory. Endpoints are InService at once unless `slow` names them."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, list[dict[str, str]]] = {}
        self.groups: set[str] = set()
        self.packages: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.components: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []

    # Jobs

    def add_job(self, name: str, spec_sha256: str | None, status: str = "Completed", **more: Any) -> None:
        arn = f"{REGION_ARN}:training-job/{name}"
        self.jobs[name] = {
            "TrainingJobName": name,
            "TrainingJobArn": arn,
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge"},
            "BillableTimeInSeconds": 60,
            **more,
        }
        self.tags[arn] = [] if spec_sha256 is None else [{"Key": "stepforge:spec-sha256", "Value": spec_sha256}]

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:
        if TrainingJobName not in self.jobs:
            raise refusal("DescribeTrainingJob", "Requested resource not found.")
        return self.jobs[TrainingJobName]

    def list_tags(self, *, ResourceArn: str) -> dict[str, Any]:
        return {"Tags": self.tags.get(ResourceArn, [])}

    def add_tags(self, *, ResourceArn: str, Tags: Sequence[dict[str, str]]) -> None:
        known = {tag["Key"]: tag for tag in [*self.tags.get(ResourceArn, ()), *Tags]}
        self.tags[ResourceArn] = list(known.values())

    # Packages

    def describe_model_package_group(self, *, ModelPackageGroupName: str) -> dict[str, Any]:
        if ModelPackageGroupName not in self.groups:
            raise refusal("DescribeModelPackageGroup", f"Model Package Group {ModelPackageGroupName} does not exist.")
        return {"ModelPackageGroupName": ModelPackageGroupName}

    def create_model_package_group(self, *, ModelPackageGroupName: str, **_: Any) -> None:
        self.groups.add(ModelPackageGroupName)

    def create_model_package(self, *, ModelPackageGroupName: str, **request: Any) -> dict[str, Any]:
        self.calls.append("create_model_package")
        version = 1 + sum(p["ModelPackageGroupName"] == ModelPackageGroupName for p in self.packages.values())
        arn = f"{REGION_ARN}:model-package/{ModelPackageGroupName}/{version}"
        self.packages[arn] = {
            "ModelPackageArn": arn,
            "ModelPackageGroupName": ModelPackageGroupName,
            "ModelPackageVersion": version,
            "LastModifiedTime": f"t{version}",
            **request,
        }
        return {"ModelPackageArn": arn}

    def describe_model_package(self, *, ModelPackageName: str) -> dict[str, Any]:
        return dict(self.packages[ModelPackageName])

    def update_model_package(self, *, ModelPackageArn: str, **change: Any) -> None:
        self.calls.append("update_model_package")
        package = self.packages[ModelPackageArn]
        removed = change.pop("CustomerMetadataPropertiesToRemove", ())
        properties = {**package.get("CustomerMetadataProperties", {}), **change.pop("CustomerMetadataProperties", {})}
        kept = {key: value for key, value in properties.items() if key not in removed}
        for value in kept.values():
            # AWS takes letters of every script, and these; botocore looks at lengths alone.
            if not re.fullmatch(r"[\w \u00a0.:/=+@-]{1,256}", value):
                raise refusal("UpdateModelPackage", f"Value {value!r} at 'CustomerMetadataProperties' is refused")
        self.packages[ModelPackageArn] = {**package, **change, "CustomerMetadataProperties": kept}

    # Serving

    def describe_model(self, *, ModelName: str) -> dict[str, Any]:
        return self._described(self.models, ModelName, "model")

    def create_model(self, *, ModelName: str, **request: Any) -> None:
        self._create(self.models, ModelName, request)

    def delete_model(self, *, ModelName: str) -> None:
        del self.models[ModelName]

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict[str, Any]:
        return self._described(self.configs, EndpointConfigName, "endpoint configuration")

    def create_endpoint_config(self, *, EndpointConfigName: str, **request: Any) -> None:
        self._create(self.configs, EndpointConfigName, request)

    def delete_endpoint_config(self, *, EndpointConfigName: str) -> None:
        del self.configs[EndpointConfigName]

    def describe_endpoint(self, *, EndpointName: str) -> dict[str, Any]:
        return self._described(self.endpoints, EndpointName, "endpoint")

    def create_endpoint(
        self, *, EndpointName: str, EndpointConfigName: str, Tags: Sequence[dict[str, str]] = ()
    ) -> None:
        arn = f"{REGION_ARN}:endpoint/{EndpointName}"
        self._create(
            self.endpoints,
            EndpointName,
            {
                "EndpointName": EndpointName,
                "EndpointArn": arn,
                "EndpointConfigName": EndpointConfigName,
                "EndpointStatus": "InService",
            },
        )
        self.tags[arn] = list(Tags)

    def update_endpoint(self, *, EndpointName: str, EndpointConfigName: str, **_: Any) -> None:
        self.calls.append(f"update_endpoint {EndpointConfigName}")
        self.endpoints[EndpointName] |= {"EndpointConfigName": EndpointConfigName, "EndpointStatus": "InService"}

    def delete_endpoint(self, *, EndpointName: str) -> None:
        self.calls.append(f"delete_endpoint {EndpointName}")
        del self.endpoints[EndpointName]

    def describe_inference_component(self, *, InferenceComponentName: str) -> dict[str, Any]:
        return self._described(self.components, InferenceComponentName, "inference component")

    def create_inference_component(
        self, *, InferenceComponentName: str, Tags: Sequence[dict[str, str]] = (), **request: Any
    ) -> None:
        if request["EndpointName"] not in self.endpoints:
            raise refusal("CreateInferenceComponent", f'Could not find endpoint "{request["EndpointName"]}".')
        arn = f"{REGION_ARN}:inference-component/{InferenceComponentName}"
        about = {"InferenceComponentName": InferenceComponentName, "InferenceComponentArn": arn}
        made = {**request, **about, "InferenceComponentStatus": "InService"}
        self._create(self.components, InferenceComponentName, made)
        self.tags[arn] = list(Tags)

    def update_inference_component(self, *, InferenceComponentName: str, **request: Any) -> None:
        self.calls.append(f"update_inference_component {request['Specification']['ModelName']}")
        self.components[InferenceComponentName] |= request

    def delete_inference_component(self, *, InferenceComponentName: str) -> None:
        del self.components[InferenceComponentName]

    def list_inference_components(self, *, EndpointNameEquals: str) -> dict[str, Any]:
        held = [one for one in self.components.values() if one["EndpointName"] == EndpointNameEquals]
        return {"InferenceComponents": held}

    # Lists

    def get_paginator(self, operation: str) -> FakeSageMaker._Pages:
        return FakeSageMaker._Pages(self, operation)

    class _Pages:
        """A page an item, so that nobody relies on one page."""

        def __init__(self, owner: FakeSageMaker, operation: str) -> None:
            self.owner, self.operation = owner, operation

        def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
            if self.operation == "list_model_package_groups":
                for name in sorted(self.owner.groups):
                    yield {"ModelPackageGroupSummaryList": [{"ModelPackageGroupName": name}]}
                return
            if self.operation == "list_endpoints":
                for name in sorted(name for name in self.owner.endpoints if request["NameContains"] in name):
                    yield {"Endpoints": [{"EndpointName": name}]}
                return
            group, wanted = request["ModelPackageGroupName"], request.get("ModelApprovalStatus")
            if group not in self.owner.groups:
                raise refusal("ListModelPackages", f"Model Package Group {group} does not exist.")
            for package in sorted(self.owner.packages.values(), key=lambda p: -p["ModelPackageVersion"]):
                if package["ModelPackageGroupName"] == group and wanted in (None, package["ModelApprovalStatus"]):
                    yield {"ModelPackageSummaryList": [dict(package)]}

    def _create(self, kind: dict[str, dict[str, Any]], name: str, request: dict[str, Any]) -> None:
        if name in kind:
            raise refusal("Create", f'Cannot create already existing "{name}".')
        kind[name] = request

    def _described(self, kind: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
        if name not in kind:
            raise refusal("Describe", f'Could not find {what} "{name}".')
        return kind[name]


class FakeAlarms:
    """CloudWatch with the alarms of these names."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.made: list[dict[str, Any]] = []

    def put_metric_alarm(self, *, AlarmName: str, **request: Any) -> None:
        self.names.add(AlarmName)
        self.made.append({"AlarmName": AlarmName, **request})

    def describe_alarms(self, *, AlarmNames: list[str]) -> dict[str, Any]:
        return {"MetricAlarms": [{"AlarmName": name} for name in AlarmNames if name in self.names]}
