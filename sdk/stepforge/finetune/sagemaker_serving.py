"""Endpoints of models that SageMaker customized: a model package answers nothing by itself.

Served are the merged weights of the package with the container that the hub names for the recipe, as the package
`sagemaker-serve` 1.27 does for models that are no adapters. Not covered: adapters as inference components, Nova
(deploy it at Bedrock). Nothing of it was tried on AWS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from stepforge.absence import is_absent
from stepforge.errors import InvalidInput, ProviderRefused

VARIANT = "main"
Calling = Callable[[str], AbstractContextManager[None]]


class Endpoint:
    """One endpoint with its configuration and model, all of one name. Each step may be taken twice."""

    def __init__(self, sagemaker: Any, calling: Calling, name: str) -> None:
        self._sagemaker, self._calling, self.name = sagemaker, calling, name

    def status(self) -> tuple[str, str]:
        """Its status and why it failed; ("", "") where there is none."""
        found = self._maybe("DescribeEndpoint", EndpointName=self.name)
        return ("", "") if found is None else (found["EndpointStatus"], found.get("FailureReason", ""))

    def create(
        self,
        package: str,
        *,
        role_arn: str,
        instance_type: str,
        image: str | None,
        hub: str,
        kms_key: str | None,
        tags: Mapping[str, str],
    ) -> None:
        """Whatever of the three is missing. `hub` is the one that the base model is from."""
        tagged = [{"Key": key, "Value": value} for key, value in {**self._own, **tags}.items()]
        if self._maybe("DescribeModel", ModelName=self.name) is None:
            self._make(
                "CreateModel",
                ModelName=self.name,
                ExecutionRoleArn=role_arn,
                PrimaryContainer=self._container(package, image=image, hub=hub, instance_type=instance_type),
                Tags=tagged,
            )
        if self._maybe("DescribeEndpointConfig", EndpointConfigName=self.name) is None:
            variant = {
                "VariantName": VARIANT,
                "ModelName": self.name,
                "InstanceType": instance_type,
                "InitialInstanceCount": 1,
            }
            self._make(
                "CreateEndpointConfig",
                EndpointConfigName=self.name,
                ProductionVariants=[variant],
                Tags=tagged,
                **({} if kms_key is None else {"KmsKeyId": kms_key}),
            )
        self._make("CreateEndpoint", EndpointName=self.name, EndpointConfigName=self.name, Tags=tagged)

    def remove(self) -> None:
        """The endpoint first: it is what is charged for. What is not there is not missed."""
        for what in ("Endpoint", "EndpointConfig", "Model"):
            self._maybe(f"Delete{what}", **{f"{what}Name": self.name})

    @property
    def _own(self) -> dict[str, str]:
        return {"stepforge:key": self.name.removesuffix(TRIAL)}

    def _container(self, package: str, *, image: str | None, hub: str, instance_type: str) -> dict[str, Any]:
        found = self._call("DescribeModelPackage", ModelPackageName=package)
        container: dict[str, Any] = (found.get("InferenceSpecification", {}).get("Containers") or [{}])[0]
        uri = container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri") or container.get("ModelDataUrl")
        if uri is None:
            return {"ModelPackageName": package}  # one whose weights AWS keeps to itself
        if container.get("IsCheckpoint") is False:
            uri = f"{uri.rstrip('/')}/checkpoints/hf_merged/"
        environment = dict(container.get("Environment", {}))
        image = image or container.get("Image")
        if image is None:
            config = self._hosting(container.get("BaseModel", {}), hub=hub, instance_type=instance_type)
            image, environment = config["EcrAddress"], {**(config.get("Environment") or {}), **environment}
        source = {"S3Uri": f"{uri.rstrip('/')}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        return {"Image": image, "Environment": environment, "ModelDataSource": {"S3DataSource": source}}

    def _hosting(self, base: dict[str, str], *, hub: str, instance_type: str) -> dict[str, Any]:
        """The recipe's hosting configuration: that of the instance type, else the default, else the first."""
        name, version = base.get("HubContentName", ""), base.get("HubContentVersion")
        about = {"HubName": hub, "HubContentType": "Model", "HubContentName": name}
        found = self._call("DescribeHubContent", **about, **({"HubContentVersion": version} if version else {}))
        document = json.loads(found["HubContentDocument"])
        recipes = [r for r in document.get("RecipeCollection", []) if r.get("Name") == base.get("RecipeName")]
        configs = (recipes[0].get("HostingConfigs") if recipes else None) or document.get("HostingConfigs") or []
        if not configs:
            raise InvalidInput(
                f"the hub names no container for {name!r} (recipe {base.get('RecipeName')!r}): give one as `image` in "
                "[provider]"
            )
        by_type = [c for c in configs if instance_type in (c.get("InstanceType"), c.get("DefaultInstanceType"))]
        default = [c for c in configs if c.get("Profile") == "Default"]
        chosen: dict[str, Any] = (by_type or default or configs)[0]
        return chosen

    def _make(self, operation: str, **given: Any) -> None:
        """Raises unless it is there already: another process was faster."""
        try:
            self._call(operation, **given)
        except ProviderRefused as refusal:
            if "already exist" not in str(refusal):
                raise

    def _maybe(self, operation: str, **given: Any) -> dict[str, Any] | None:
        try:
            return self._call(operation, **given)
        except ProviderRefused as refusal:
            if not is_absent(refusal):
                raise
            return None

    def _call(self, operation: str, **given: Any) -> dict[str, Any]:
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_")
        with self._calling(operation):
            answer: dict[str, Any] = getattr(self._sagemaker, words)(**given)
            return answer


TRIAL = "-trial"
"""Of the name of an endpoint that lives for an evaluation: what serves is another's to remove."""
