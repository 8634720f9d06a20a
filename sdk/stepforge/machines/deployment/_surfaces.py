"""Where versions serve: endpoints of their own, or inference components that share one. Both are told the same things.

A version is named by what serves it: the name of its EndpointConfig, or of its Model for a component.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import existing
from stepforge.contracts.base import digest
from stepforge.contracts.names import DOMAIN_TAG, ENVIRONMENT_TAG, Keys, endpoint_name, group_domain, group_environment
from stepforge.contracts.serving import VARIANT, Answers, Fleet
from stepforge.errors import EndpointFailed, PromotionBusy
from stepforge.machines.attempts import volume_key
from stepforge.machines.rollout import Rollout, component_guardrails, guardrails

MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
Tags = Sequence[dict[str, str]]


class Served(NamedTuple):
    """What answers behind a name, or is to."""

    name: str
    arn: str
    status: str
    version: str
    """What serves now, not what it is being updated to."""
    reason: str = ""
    """Of a failure."""


class Surface(Protocol):
    def find(self, name: str) -> Served | None: ...

    def prepare(self, version: str, *, role_arn: str, key_arn: str) -> None:
        """Make what `create` and `update` need beside the Model, where it does not exist."""

    def create(self, name: str, version: str, tags: Tags = ()) -> None:
        """With `tags` beside those of the bill. Raises PromotionBusy where something must come into service first."""

    def update(self, name: str, version: str, alarm: str | None, rollout: Rollout) -> None:
        """Replace what serves, guarded by an alarm; without one at once."""

    def tag(self, name: str) -> None:
        """Tag what is charged for behind `name`, if an earlier release made it without tags."""

    def delete(self, name: str) -> None: ...

    def forget(self, version: str) -> None:
        """Delete what `prepare` made for a version that nothing serves, and what nothing needs any more.

        Raises PromotionBusy where something must go first.
        """

    def clear(self) -> bool:
        """Delete an endpoint on which nothing is, unless it moves; whether there was one."""


def surface(sagemaker: Any, group: str, fleet: Fleet) -> Surface:
    return Components(sagemaker, group, fleet) if fleet.mode == "components" else Endpoints(sagemaker, group, fleet)


def cost_tags(group: str) -> list[dict[str, str]]:
    """Tags by which the bill and the environment's budget know what serves a group. Pure."""
    tags = {ENVIRONMENT_TAG: group_environment(group), DOMAIN_TAG: group_domain(group)}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class Endpoints:
    """An endpoint for each of candidate and champion."""

    def __init__(self, sagemaker: Any, group: str, fleet: Fleet) -> None:
        self._sagemaker, self._fleet, self._tags = sagemaker, fleet, cost_tags(group)

    def find(self, name: str) -> Served | None:
        found = existing(self._sagemaker.describe_endpoint, EndpointName=name)
        if found is None:
            return None
        reason, version = found.get("FailureReason", ""), found["EndpointConfigName"]
        return Served(name, found["EndpointArn"], found["EndpointStatus"], version, reason)

    def prepare(self, version: str, *, role_arn: str, key_arn: str) -> None:
        if existing(self._sagemaker.describe_endpoint_config, EndpointConfigName=version) is None:
            request = config_request(version, self._fleet, key_arn=key_arn)
            self._sagemaker.create_endpoint_config(**request, Tags=self._tags)

    def create(self, name: str, version: str, tags: Tags = ()) -> None:
        self._sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=version, Tags=[*self._tags, *tags])

    def update(self, name: str, version: str, alarm: str | None, rollout: Rollout) -> None:
        guarded = {} if alarm is None else {"DeploymentConfig": guardrails(alarm, rollout)}
        self._sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=version, **guarded)

    def tag(self, name: str) -> None:
        _tag_endpoint(self._sagemaker, name, self._tags)

    def delete(self, name: str) -> None:
        self._sagemaker.delete_endpoint(EndpointName=name)

    def forget(self, version: str) -> None:
        _delete_config(self._sagemaker, version)

    def clear(self) -> bool:
        return False


class Components:
    """Candidate and champion as components of one endpoint, the group's, which comes with the first of them."""

    def __init__(self, sagemaker: Any, group: str, fleet: Fleet) -> None:
        self._sagemaker, self._fleet = sagemaker, fleet
        self._group, self._endpoint, self._config = group, endpoint_name(group), fleet_name(group, fleet)
        self._tags = cost_tags(group)

    def find(self, name: str) -> Served | None:
        found = existing(self._sagemaker.describe_inference_component, InferenceComponentName=name)
        if found is None:
            return None
        reason, version = found.get("FailureReason", ""), found["Specification"]["ModelName"]
        return Served(name, found["InferenceComponentArn"], found["InferenceComponentStatus"], version, reason)

    def prepare(self, version: str, *, role_arn: str, key_arn: str) -> None:
        if existing(self._sagemaker.describe_endpoint_config, EndpointConfigName=self._config) is None:
            request = config_request(self._config, self._fleet, key_arn=key_arn, role_arn=role_arn)
            self._sagemaker.create_endpoint_config(**request, Tags=self._tags)

    def create(self, name: str, version: str, tags: Tags = ()) -> None:
        self._ensure_endpoint()
        self._sagemaker.create_inference_component(
            **component_request(name, version, self._endpoint, self._fleet), Tags=[*self._tags, *tags]
        )

    def update(self, name: str, version: str, alarm: str | None, rollout: Rollout) -> None:
        guarded = {} if alarm is None else {"DeploymentConfig": component_guardrails(alarm, rollout)}
        self._sagemaker.update_inference_component(
            InferenceComponentName=name, Specification=_specification(version, self._fleet), **guarded
        )

    def tag(self, name: str) -> None:
        _tag_endpoint(self._sagemaker, self._endpoint, self._tags)

    def delete(self, name: str) -> None:
        self._sagemaker.delete_inference_component(InferenceComponentName=name)

    def forget(self, version: str) -> None:
        """Without the live component nobody needs the endpoint, which is billed."""
        endpoint = existing(self._sagemaker.describe_endpoint, EndpointName=self._endpoint)
        if endpoint is None or self.find(self._endpoint) is not None:
            return
        left = self._sagemaker.list_inference_components(EndpointNameEquals=self._endpoint)["InferenceComponents"]
        if left:
            raise PromotionBusy(f"{left[0]['InferenceComponentName']} still goes: {self._endpoint} can be deleted then")
        if endpoint["EndpointStatus"] not in MOVING:
            self._sagemaker.delete_endpoint(EndpointName=self._endpoint)
        _delete_config(self._sagemaker, endpoint["EndpointConfigName"])

    def clear(self) -> bool:
        found = existing(self._sagemaker.describe_endpoint, EndpointName=self._endpoint)
        if (
            found is None
            or found["EndpointStatus"] in MOVING
            or not is_shared(found["EndpointConfigName"], self._group)
        ):
            return False
        if self._sagemaker.list_inference_components(EndpointNameEquals=self._endpoint)["InferenceComponents"]:
            return False
        self._sagemaker.delete_endpoint(EndpointName=self._endpoint)
        _delete_config(self._sagemaker, found["EndpointConfigName"])
        return True

    def _ensure_endpoint(self) -> None:
        """Raises PromotionBusy while the endpoint comes up, EndpointFailed where it does not."""
        name, found = self._endpoint, existing(self._sagemaker.describe_endpoint, EndpointName=self._endpoint)
        if found is None:
            try:
                self._sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=self._config, Tags=self._tags)
            except AwsError:
                if existing(self._sagemaker.describe_endpoint, EndpointName=name) is None:
                    raise
            raise PromotionBusy(f"{name} is being created: its component comes then")
        status = found["EndpointStatus"]
        if status == "Failed":
            # It can be neither updated nor created again: the next promotion makes another.
            self._sagemaker.delete_endpoint(EndpointName=name)
            raise EndpointFailed(f"{name} failed: {found.get('FailureReason', 'no reason is given')}")
        if status in MOVING:
            raise PromotionBusy(f"{name} is {status}: wait for that to end")
        if found["EndpointConfigName"] != self._config:
            self._sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=self._config)
            raise PromotionBusy(f"{name} gets other instances: its component comes then")


def fleet_name(group: str, fleet: Fleet) -> str:
    """Of the EndpointConfig whose instances components share: `{group}-i{8 hex}`, at most 63 characters."""
    return f"{group}-i{digest([fleet.instance_type, fleet.instances])[:8]}"


def is_shared(config: str, group: str) -> bool:
    """Whether this is a `fleet_name` of the group, of any fleet. Pure."""
    return re.fullmatch(rf"{re.escape(group)}-i[0-9a-f]{{8}}", config) is not None


def config_request(name: str, fleet: Fleet, *, key_arn: str, role_arn: str = "") -> dict[str, Any]:
    """The request of CreateEndpointConfig. Pure."""
    key = volume_key(fleet.instance_type, key_arn)
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "InitialInstanceCount": fleet.instances,
        "InstanceType": fleet.instance_type,
    }
    request: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": [variant]}
    if fleet.mode == "components":
        request |= {"ExecutionRoleArn": role_arn, "EnableNetworkIsolation": True}
    else:
        variant |= {"ModelName": name, "InitialVariantWeight": 1.0}
    if fleet.answers is not None:
        request["AsyncInferenceConfig"] = async_config(fleet.answers, key_arn=key_arn)
    return request if key is None else {**request, "KmsKeyId": key}


def async_config(answers: Answers, *, key_arn: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_AsyncInferenceConfig.html. Pure."""
    told = {"SuccessTopic": answers.success_topic, "ErrorTopic": answers.error_topic}
    topics = {name: arn for name, arn in told.items() if arn is not None}
    output = {
        "S3OutputPath": f"s3://{answers.bucket}/{Keys.inference('answers')}",
        "S3FailurePath": f"s3://{answers.bucket}/{Keys.inference('failures')}",
        "KmsKeyId": key_arn,
    }
    return {
        "OutputConfig": {**output, **({"NotificationConfig": topics} if topics else {})},
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": answers.max_concurrent},
    }


def component_request(name: str, model: str, endpoint: str, fleet: Fleet) -> dict[str, Any]:
    """The request of CreateInferenceComponent: a copy for each instance. Pure."""
    return {
        "InferenceComponentName": name,
        "EndpointName": endpoint,
        "VariantName": VARIANT,
        "Specification": _specification(model, fleet),
        "RuntimeConfig": {"CopyCount": fleet.instances},
    }


def _specification(model: str, fleet: Fleet) -> dict[str, Any]:
    assert fleet.share is not None  # the contract says so
    share = fleet.share
    needs: dict[str, Any] = {"NumberOfCpuCoresRequired": share.cpus, "MinMemoryRequiredInMb": share.memory_mb}
    if share.accelerators:
        needs["NumberOfAcceleratorDevicesRequired"] = share.accelerators
    return {"ModelName": model, "ComputeResourceRequirements": needs}


def _tag_endpoint(sagemaker: Any, name: str, tags: Tags) -> None:
    found = sagemaker.describe_endpoint(EndpointName=name)
    has = sagemaker.list_tags(ResourceArn=found["EndpointArn"])["Tags"]
    if any(tag not in has for tag in tags):
        sagemaker.add_tags(ResourceArn=found["EndpointArn"], Tags=list(tags))


def _delete_config(sagemaker: Any, name: str) -> None:
    if existing(sagemaker.describe_endpoint_config, EndpointConfigName=name) is not None:
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
