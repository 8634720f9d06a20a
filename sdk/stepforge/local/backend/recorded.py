"""CloudFormation: resource types that no service here has. They are recorded: nothing runs behind them.

Each keeps the properties that it was deployed with and what the service would fill in, and gives Ref and Fn::GetAtt
values of the shape that AWS documents. They are read as on AWS, by Cloud Control:
`aws cloudcontrol get-resource --type-name AWS::SageMaker::Domain --identifier d-0123456789ab`.
Identifiers and what only a replacement changes are those of the types' schemas:
https://docs.aws.amazon.com/cloudcontrolapi/latest/userguide/resource-identifier.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ministack.services.cloudcontrol as cloudcontrol
import ministack.services.cloudformation.provisioners as provisioners
from ministack.core.responses import get_account_id, get_region, new_uuid

Json = Any


@dataclass(frozen=True)
class Kind:
    identifier: tuple[str, ...]
    """Properties that name a resource, joined by `|`: what Ref gives."""
    values: Callable[[Json, str], Json]
    """Properties and an id of ours to what the service itself would fill in."""
    fixed: tuple[str, ...]
    """Properties whose change is another resource."""


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"


def _analyzer(properties: Json, unique: str) -> Json:
    name = properties.get("AnalyzerName", f"analyzer-{unique}")
    return {"AnalyzerName": name, "Arn": _arn("access-analyzer", f"analyzer/{name}")}


def _action(properties: Json, unique: str) -> Json:
    return {"ActionId": f"{unique[:8]}-{unique[8:12]}-{unique[12:16]}-{unique[16:20]}-{unique[20:32]}"}


def _domain(properties: Json, unique: str) -> Json:
    domain = f"d-{unique[:12]}"
    return {
        "DomainId": domain,
        "DomainArn": _arn("sagemaker", f"domain/{domain}"),
        "Url": f"https://{domain}.studio.{get_region()}.sagemaker.aws",
        "HomeEfsFileSystemId": f"fs-{unique[:17]}",
        "SecurityGroupIdForDomainBoundary": f"sg-{unique[:17]}",
    }


def _profile(properties: Json, unique: str) -> Json:
    name = f"{properties['DomainId']}/{properties['UserProfileName'].lower()}"
    return {"UserProfileArn": _arn("sagemaker", f"user-profile/{name}")}


def _mlflow(properties: Json, unique: str) -> Json:
    app = f"app-{unique[:12].upper()}"
    return {"MlflowAppId": app, "Arn": _arn("sagemaker", f"mlflow-app/{app}"), "Status": "Created"}


KINDS = {
    "AWS::AccessAnalyzer::Analyzer": Kind(("Arn",), _analyzer, ("AnalyzerName", "Type")),
    "AWS::Budgets::BudgetsAction": Kind(("ActionId", "BudgetName"), _action, ("ActionType", "BudgetName")),
    "AWS::SageMaker::Domain": Kind(("DomainId",), _domain, ("AuthMode", "DomainName", "KmsKeyId")),
    "AWS::SageMaker::MlflowApp": Kind(("Arn",), _mlflow, ("Name", "RoleArn")),
    "AWS::SageMaker::UserProfile": Kind(
        ("UserProfileName", "DomainId"), _profile, ("DomainId", "UserProfileName", "SingleSignOnUserIdentifier")
    ),
}


def install() -> None:
    provisioners._RESOURCE_HANDLERS.update({name: _handler(name, kind) for name, kind in KINDS.items()})


def _handler(type_name: str, kind: Kind) -> Json:
    def create(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
        unique = hashlib.sha256(new_uuid().encode()).hexdigest()
        return _keep(type_name, kind, properties, kind.values(properties, unique))

    def update(physical_id: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
        if any(old.get(field) != new.get(field) for field in kind.fixed):
            # The engine deletes what was before, by its id.
            return create("", new, stack)
        known = json.loads(cloudcontrol._resources[cloudcontrol._resource_key(type_name, physical_id)]["Properties"])
        own = {name: known[name] for name in kind.values(new, "0" * 64)}
        return _keep(type_name, kind, new, own)

    def delete(physical_id: str, properties: Json) -> None:
        forget(type_name, physical_id)

    return {"create": create, "update": update, "delete": delete}


def _keep(type_name: str, kind: Kind, properties: Json, own: Json) -> tuple[str, Json]:
    state = {**properties, **own}
    identifier = "|".join(state[name] for name in kind.identifier)
    keep(type_name, identifier, state)
    return identifier, own


def keep(type_name: str, identifier: str, state: Json) -> None:
    """What Cloud Control answers from now on."""
    cloudcontrol._resources[cloudcontrol._resource_key(type_name, identifier)] = {
        "TypeName": type_name, "Identifier": identifier, "Properties": json.dumps(state),
    }  # fmt: skip


def forget(type_name: str, identifier: str) -> None:
    cloudcontrol._resources.pop(cloudcontrol._resource_key(type_name, identifier), None)
