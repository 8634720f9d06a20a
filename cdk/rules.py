"""Rules of our own, for what AwsSolutions lacks: training jobs, MLflow, the registry, domains, and how we build stacks.

A rule is a function from a template to what it objects to. `StepforgeChecks` runs them in every synth, where one
finding stops it; tests run them on templates that break each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import jsii

from cdk.serving import ENDPOINT_LOGS
from stepforge.contracts.names import endpoint_name

Template = Mapping[str, Any]
Rule = Callable[[Template], Iterator[tuple[str, str]]]
"""Yields the logical id of a resource, and what is wrong with it."""
_NEEDED = ("OutputDataConfig", "ResourceConfig", "StoppingCondition", "EnableNetworkIsolation",
           "EnableInterContainerTrafficEncryption")  # fmt: skip
_KEYS = {
    "AWS::ECR::Repository": ("EncryptionConfiguration", "KmsKey"),
    "AWS::Logs::LogGroup": ("KmsKeyId",),
    "AWS::SageMaker::Domain": ("KmsKeyId",),
    "AWS::SecretsManager::Secret": ("KmsKeyId",),
    "AWS::SNS::Topic": ("KmsMasterKeyId",),
    "AWS::CodeBuild::Project": ("EncryptionKey",),
    "AWS::CloudTrail::Trail": ("KMSKeyId",),
}
"""Where a resource says which key of ours encrypts it."""


@dataclass(frozen=True)
class Finding:
    rule: str
    logical_id: str
    message: str


def resources(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource.get("Properties", {})


def _jobs(template: Template) -> Iterator[tuple[str, str]]:
    """A machine that makes training jobs says all that protects them, and the guardrails hold its role."""
    for name, machine in resources(template, "AWS::StepFunctions::StateMachine"):
        creating = [state for state in _states(machine) if "createTrainingJob" in str(state.get("Resource"))]
        if not creating:
            continue
        for state in creating:
            given = {key.removesuffix(".$") for key in state.get("Parameters", {})}
            if missing := [key for key in _NEEDED if key not in given]:
                yield name, f"a training job without {missing}"
        if not any({"VpcConfig", "VpcConfig.$"} & set(state.get("Parameters", {})) for state in creating):
            yield name, "training jobs never run in a network"
        role = json.dumps(machine["RoleArn"])
        guarded = {
            json.dumps({"Fn::GetAtt": [attached["Ref"], "Arn"]})
            for _, policy in resources(template, "AWS::IAM::ManagedPolicy")
            if "sagemaker:OutputKmsKey" in json.dumps(policy)
            for attached in policy.get("Roles", [])
        }
        if role not in guarded:
            yield name, "its role creates training jobs and no guardrails hold it"


def _states(machine: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    given = machine.get("DefinitionString") or "{}"
    text = given
    if isinstance(given, dict):
        text = "".join(part if isinstance(part, str) else "" for part in given.get("Fn::Join", ["", ["{}"]])[1])
    waiting = list(json.loads(text).get("States", {}).values())
    while waiting:
        state = waiting.pop()
        yield state
        for inner in (*state.get("Branches", []), state.get("Iterator", {}), state.get("ItemProcessor", {})):
            waiting += inner.get("States", {}).values()


def _registry(template: Template) -> Iterator[tuple[str, str]]:
    """Who may create a package may not approve it; a group is nobody's but the account's."""
    for name, policy in resources(template, "AWS::IAM::Policy"):
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = _listed(statement["Action"])
            approving = json.dumps(statement.get("Condition", {}))
            if "sagemaker:CreateModelPackage" in actions and "sagemaker:ModelApprovalStatus" not in approving:
                yield name, "creates model packages with any approval status"
    for name, group in resources(template, "AWS::SageMaker::ModelPackageGroup"):
        if '"*"' in json.dumps(group.get("ModelPackageGroupPolicy", {})):
            yield name, "a group of models that anyone may use"


def _mlflow(template: Template) -> Iterator[tuple[str, str]]:
    """Runs do not register models: the machine does, after its gate."""
    for kind in ("AWS::SageMaker::MlflowApp", "AWS::SageMaker::MlflowTrackingServer"):
        for name, app in resources(template, kind):
            off = app.get("ModelRegistrationMode") == "AutoModelRegistrationDisabled"
            if not off and app.get("AutomaticModelRegistration") is not False:
                yield name, "registers models by itself"


def _domains(template: Template) -> Iterator[tuple[str, str]]:
    for name, domain in resources(template, "AWS::SageMaker::Domain"):
        if domain.get("AppNetworkAccessType") != "VpcOnly":
            yield name, "its apps go out by SageMaker's network and not by ours"
        sharing = domain.get("DefaultUserSettings", {}).get("SharingSettings", {})
        if sharing.get("NotebookOutputOption") != "Disabled":
            yield name, "outputs of notebooks may be shared"


def _keys(template: Template) -> Iterator[tuple[str, str]]:
    for kind, path in _KEYS.items():
        for name, found in resources(template, kind):
            value: Any = found
            for part in path:
                value = value.get(part, {}) if isinstance(value, dict) else {}
            if not value:
                yield name, f"{kind} without {'.'.join(path)}: it is not encrypted with a key of ours"
    for name, queue in resources(template, "AWS::SQS::Queue"):
        if not (queue.get("KmsMasterKeyId") or queue.get("SqsManagedSseEnabled")):
            yield name, "a queue that is not encrypted"


def _no_custom_resources(template: Template) -> Iterator[tuple[str, str]]:
    for name, resource in template["Resources"].items():
        if resource["Type"].startswith("Custom::") or resource["Type"] == "AWS::CloudFormation::CustomResource":
            yield name, "a custom resource: its function runs with rights of its own and hangs deployments"


def _federation(template: Template) -> Iterator[tuple[str, str]]:
    for name, role in resources(template, "AWS::IAM::Role"):
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            if "Federated" not in statement.get("Principal", {}):
                continue
            bound = statement.get("Condition", {}).get("StringEquals", {})
            subjects = [value for key, value in bound.items() if key.endswith(":sub")]
            audience = [value for key, value in bound.items() if key.endswith(":aud")]
            if not subjects or not audience or "*" in json.dumps(subjects):
                yield name, "tokens of other repositories or audiences could take it on"


def _alarms(template: Template) -> Iterator[tuple[str, str]]:
    for name, alarm in resources(template, "AWS::CloudWatch::Alarm"):
        if not alarm.get("AlarmActions"):
            yield name, "an alarm that nobody hears"


def _logs(template: Template) -> Iterator[tuple[str, str]]:
    """Logs end; and what serves a group of models writes into groups that are ours, and not SageMaker's."""
    groups = dict(resources(template, "AWS::Logs::LogGroup"))
    for name, group in groups.items():
        if "RetentionInDays" not in group:
            yield name, "logs that are kept for ever"
    taken = {group.get("LogGroupName") for group in groups.values()}
    for name, models in resources(template, "AWS::SageMaker::ModelPackageGroup"):
        served = (
            endpoint_name(models["ModelPackageGroupName"]),
            endpoint_name(models["ModelPackageGroupName"], candidate=True),
        )
        if missing := [one for one in served if f"{ENDPOINT_LOGS}/{one}" not in taken]:
            yield name, f"SageMaker would make the log groups of {missing}, without an end and without a key"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


RULES: dict[str, Rule] = {
    "SF1": _jobs,
    "SF2": _registry,
    "SF3": _mlflow,
    "SF4": _domains,
    "SF5": _keys,
    "SF6": _no_custom_resources,
    "SF7": _federation,
    "SF8": _alarms,
    "SF9": _logs,
}
IN_CLOUD_ONLY = ("SF1", "SF5", "SF8", "SF9")
"""The local AWS is one user's on one machine: it has one key, no guardrails, its own logs, and nobody is called."""


def findings(template: Template, *, local: bool = False) -> list[Finding]:
    """All that the rules object to."""
    chosen = {name: rule for name, rule in RULES.items() if not (local and name in IN_CLOUD_ONLY)}
    return [
        Finding(name, logical_id, message) for name, rule in chosen.items() for logical_id, message in rule(template)
    ]


@jsii.implements(cdk.IPolicyValidationPlugin)
class StepforgeChecks:
    """The rules as a plugin of a synth."""

    @property
    def name(self) -> str:
        return "Stepforge"

    @property
    def version(self) -> str:
        return "1.0.0"

    @property
    def rule_ids(self) -> list[str]:
        return list(RULES)

    def validate(self, context: Any) -> cdk.PolicyValidationPluginReport:
        violations = []
        for path in context.template_paths:
            template = json.loads(Path(path).read_text(encoding="utf-8"))
            for found in findings(template, local="stepforge-local" in Path(path).name):
                violations.append(
                    cdk.PolicyViolation(
                        rule_name=found.rule,
                        description=f"{found.rule}: {found.message}",
                        severity="error",
                        violating_resources=[
                            cdk.PolicyViolatingResource(
                                resource_logical_id=found.logical_id, template_path=path, locations=[found.logical_id]
                            )
                        ],
                    )
                )
        return cdk.PolicyValidationPluginReport(success=not violations, violations=violations)
