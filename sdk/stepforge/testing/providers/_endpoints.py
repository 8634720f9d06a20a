"""SageMaker's models, endpoint configurations and endpoints, as far as serving a customized model goes."""

from __future__ import annotations

import json
import re
from typing import Any

from stepforge.testing.providers._server import DISCLAIMER, FAKE, Phases, Refusal, Reply, Request

IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/localfake-lmi:1"
_KINDS = {"Model": "ModelName", "EndpointConfig": "EndpointConfigName", "Endpoint": "EndpointName"}


class Endpoints:
    """State of one account; `answer` is None for an action that is none of these."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _KINDS}
        """By kind and name, what was asked for."""
        self.phases: dict[str, Phases] = {}
        self.log: list[str] = []
        """What was created and deleted, in order, such as `CreateEndpoint sf-...`."""

    def answer(self, action: str, asked: dict[str, Any], models: dict[str, str]) -> Reply | None:
        if action == "DescribeModelPackage":
            return Reply(200, _package(asked["ModelPackageName"], models))
        if action == "DescribeHubContent":
            return Reply(200, _hub_content(asked))
        verb = next((verb for verb in ("Create", "Describe", "Delete") if action.startswith(verb)), None)
        kind = action.removeprefix(verb or "")
        if verb is None or kind not in _KINDS:
            return None
        name = asked[_KINDS[kind]]
        arn = f"arn:aws:sagemaker:us-east-1:000000000000:{kind.lower()}/{name}"
        if verb == "Create":
            if name in self.made[kind]:
                raise _refused(f"Cannot create already existing {kind} {name!r}.")
            needs = {"EndpointConfig": ("Model", "ModelName"), "Endpoint": ("EndpointConfig", "EndpointConfigName")}
            if kind in needs:
                what, field = needs[kind]
                of = asked["ProductionVariants"][0] if kind == "EndpointConfig" else asked
                self._there(what, of[field])
            self.made[kind][name] = asked
            if kind == "Endpoint":
                self.phases[name] = Phases(("Creating", "InService"))
            self.log.append(f"{action} {name}")
            return Reply(200, {f"{kind}Arn": arn})
        found = self._there(kind, name)
        if verb == "Delete":
            del self.made[kind][name]
            self.log.append(f"{action} {name}")
            return Reply(200, {})
        about = {"EndpointStatus": self.phases[name].look()} if kind == "Endpoint" else {}
        return Reply(200, {**found, f"{kind}Arn": arn, "CreationTime": 0.0, "LastModifiedTime": 0.0, **about})

    def invoke(self, request: Request, match: re.Match[str]) -> Reply:
        if match[1] not in self.made["Endpoint"] or self.phases[match[1]].now != "InService":
            raise _refused(f"Endpoint {match[1]} of account 000000000000 not found.")
        text = str(request.json()["messages"][-1]["content"])
        words = len(text.split())
        message = {"role": "assistant", "content": f"{DISCLAIMER} {text}"}
        usage = {"prompt_tokens": words, "completion_tokens": words + 5, "total_tokens": 2 * words + 5}
        return Reply(200, {"choices": [{"index": 0, "message": message}], "usage": usage})

    def _there(self, kind: str, name: str) -> dict[str, Any]:
        if name not in self.made[kind]:
            raise _refused(f"Could not find {kind.lower()} {name!r}.")
        return self.made[kind][name]


def _package(arn: str, models: dict[str, str]) -> dict[str, Any]:
    if arn not in models:
        raise _refused(f"ModelPackage {arn} does not exist.")
    container = {
        "ModelDataSource": {
            "S3DataSource": {"S3Uri": "s3://bucket/tunes/output/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        },
        "BaseModel": {"HubContentName": "small-model", "HubContentVersion": "1.0.0", "RecipeName": f"{FAKE}-sft"},
        "IsCheckpoint": False,
    }
    about = {"ModelPackageStatus": "Completed", "ModelPackageStatusDetails": {"ValidationStatuses": []}}
    specification = {"Containers": [container]}
    return {"ModelPackageArn": arn, "CreationTime": 0.0, "InferenceSpecification": specification, **about}


def _hub_content(asked: dict[str, Any]) -> dict[str, Any]:
    config = {"Profile": "Default", "EcrAddress": IMAGE, "Environment": {"OPTION_ROLLING_BATCH": "vllm"}}
    document = {"RecipeCollection": [{"Name": f"{FAKE}-sft", "HostingConfigs": [config]}]}
    arn = f"arn:aws:sagemaker:us-east-1:aws:hub/{asked['HubName']}"
    return {
        "HubContentName": asked["HubContentName"],
        "HubContentArn": f"{arn}/Model/{asked['HubContentName']}/1.0.0",
        "HubContentVersion": "1.0.0",
        "HubContentType": "Model",
        "DocumentSchemaVersion": "2.3.0",
        "HubName": asked["HubName"],
        "HubArn": arn,
        "HubContentDocument": json.dumps(document),
        "HubContentStatus": "Available",
        "CreationTime": 0.0,
    }


def _refused(message: str) -> Refusal:
    return Refusal(400, "ValidationException", message)
