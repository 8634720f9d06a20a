"""The model registry: packages, their approval, and the endpoint that answers with what was promoted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stepforge import transfers
from stepforge.connection import Connection
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import endpoint_name, package_group
from stepforge.contracts.registry import Approval
from stepforge.errors import EnvironmentUnavailable, InvalidInput, UnknownName
from stepforge.packages import summaries
from stepforge.promotion import GROUP_PREFIX


@dataclass(frozen=True)
class Package:
    """One version in a model package group."""

    arn: str
    group: str
    version: int
    approval: Approval
    stage: str
    created: datetime
    description: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    artifact: ArtifactRef | None = None

    @property
    def reference(self) -> str:
        """What the CLI takes: `facial/3`."""
        return f"{self.group.removeprefix(GROUP_PREFIX)}/{self.version}"


class Registry:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def packages(self, domain: str | None = None) -> list[Package]:
        """Packages of a domain, or of all domains, newest first."""
        sagemaker = self._connection.client("sagemaker")
        groups = self._groups()
        if domain is not None and package_group(domain) not in groups:
            raise UnknownName("model", domain, [group.removeprefix(GROUP_PREFIX) for group in groups])
        chosen = groups if domain is None else [package_group(domain)]
        arns = [summary["ModelPackageArn"] for group in chosen for summary in summaries(sagemaker, group)]
        return sorted((self._describe(arn) for arn in arns), key=lambda p: (p.group, -p.version))

    def get(self, reference: str) -> Package:
        """`facial/3`, `facial` for its newest version, or an ARN. Raises UnknownName."""
        if reference.startswith("arn:"):
            return self._describe(reference)
        domain, _, version = reference.partition("/")
        packages = self.packages(domain)
        for package in packages:
            if not version or str(package.version) == version:
                return package
        raise UnknownName("model", reference, [p.reference for p in packages])

    def approve(self, reference: str, *, comment: str = "") -> Package:
        """Approve a version: the event of the change starts its promotion."""
        return self._decide(reference, "Approved", comment)

    def reject(self, reference: str, *, comment: str = "") -> Package:
        return self._decide(reference, "Rejected", comment)

    def pull(self, reference: str, folder: Path) -> Path:
        """Download the weights, every file checked against its digest. Raises IntegrityError where one was altered."""
        package = self.get(reference)
        if package.artifact is None:
            raise InvalidInput(f"model {package.reference} names no artifact: it was not registered by stepforge")
        if folder.exists() and any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty: name a new folder")
        transfers.download(self._connection, package.artifact, folder)
        return folder

    def predict(
        self, domain: str, prompts: list[str], *, temperature: float = 0.0, max_new_tokens: int = 64, seed: int = 0
    ) -> dict[str, Any]:
        """Ask the domain's endpoint. Returns `completions` (one a prompt) and `model_sha256`.

        Raises EnvironmentUnavailable where no version was promoted yet.
        """
        runtime = self._connection.client("sagemaker-runtime")
        body = {
            "prompts": prompts,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
        }
        name = endpoint_name(package_group(domain))
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=name, ContentType="application/json", Accept="application/json", Body=json.dumps(body)
            )
        except runtime.exceptions.ModelError as error:
            raise InvalidInput(f"the model of {domain!r} refused the request: {error}") from error
        except runtime.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("ValidationError", "ValidationException"):
                raise EnvironmentUnavailable(
                    f"domain {domain!r} has no endpoint {name!r} in service: approve a version first "
                    f"(`stepforge registry approve {domain}`) and wait for its promotion"
                ) from error
            raise
        result: dict[str, Any] = json.loads(answer["Body"].read())
        return result

    def _decide(self, reference: str, approval: Approval, comment: str) -> Package:
        package = self.get(reference)
        self._connection.client("sagemaker").update_model_package(
            ModelPackageArn=package.arn,
            ModelApprovalStatus=approval,
            ApprovalDescription=comment or f"{approval} with stepforge",
        )
        return self._describe(package.arn)

    def _groups(self) -> list[str]:
        pages = self._connection.client("sagemaker").get_paginator("list_model_package_groups")
        names = [
            group["ModelPackageGroupName"]
            for page in pages.paginate(NameContains=GROUP_PREFIX)
            for group in page["ModelPackageGroupSummaryList"]
        ]
        return sorted(name for name in names if name.startswith(GROUP_PREFIX))

    def _describe(self, arn: str) -> Package:
        answer = self._connection.client("sagemaker").describe_model_package(ModelPackageName=arn)
        metadata = answer.get("CustomerMetadataProperties", {})
        containers = answer.get("InferenceSpecification", {}).get("Containers", [])
        source = containers[0].get("ModelDataSource", {}).get("S3DataSource") if containers else None
        sha256 = metadata.get("model_sha256")
        return Package(
            arn=answer["ModelPackageArn"],
            group=answer["ModelPackageGroupName"],
            version=answer["ModelPackageVersion"],
            approval=answer["ModelApprovalStatus"],
            stage=answer.get("ModelLifeCycle", {}).get("Stage", ""),
            created=answer["CreationTime"],
            description=answer.get("ModelPackageDescription", ""),
            metadata=metadata,
            artifact=ArtifactRef(uri=source["S3Uri"], sha256=sha256) if source and sha256 else None,
        )
