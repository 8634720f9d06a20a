"""Our own rules: each finds a template that breaks it, and nothing in those that we deploy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")

from cdk.rules import RULES, findings

from .conftest import NAMES, Synth

Json = Any


def each(template: Json, kind: str) -> list[Json]:
    return [r["Properties"] for r in template["Resources"].values() if r["Type"] == kind]


def machine(template: Json, change: Callable[[str], str]) -> None:
    for properties in each(template, "AWS::StepFunctions::StateMachine"):
        if "createTrainingJob" in json.dumps(properties):
            text = properties["DefinitionString"]
            assert isinstance(text, str)
            properties["DefinitionString"] = change(text)


def unguarded(template: Json) -> None:
    for properties in each(template, "AWS::IAM::ManagedPolicy"):
        properties.pop("Roles", None)


def approving(template: Json) -> None:
    for properties in each(template, "AWS::IAM::Policy"):
        for statement in properties["PolicyDocument"]["Statement"]:
            if "sagemaker:CreateModelPackage" in statement["Action"]:
                del statement["Condition"]


def drop(kind: str, key: str) -> Callable[[Json], None]:
    def change(template: Json) -> None:
        for properties in each(template, kind):
            properties.pop(key)

    return change


def put(kind: str, **values: Json) -> Callable[[Json], None]:
    def change(template: Json) -> None:
        for properties in each(template, kind):
            properties.update(values)

    return change


def add(kind: str, **properties: Json) -> Callable[[Json], None]:
    def change(template: Json) -> None:
        template["Resources"]["Added"] = {"Type": kind, "Properties": properties}

    return change


def trust(**condition: Json) -> Callable[[Json], None]:
    statement = {"Principal": {"Federated": "arn"}, "Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity"}
    return add("AWS::IAM::Role", AssumeRolePolicyDocument={"Statement": [{**statement, "Condition": condition}]})


BREAKS: list[tuple[str, str, Callable[[Json], None]]] = [
    ("SF1", "a training job without", lambda t: machine(t, lambda s: s.replace("EnableNetworkIsolation.$", "X.$"))),
    ("SF1", "never run in a network", lambda t: machine(t, lambda s: s.replace("VpcConfig.$", "X.$"))),
    ("SF1", "no guardrails hold it", unguarded),
    ("SF2", "any approval status", approving),
    ("SF2", "anyone may use", put("AWS::SageMaker::ModelPackageGroup", ModelPackageGroupPolicy={"Principal": "*"})),
    ("SF3", "registers models", put("AWS::SageMaker::MlflowApp", ModelRegistrationMode="AutoModelRegistrationEnabled")),
    ("SF4", "not by ours", put("AWS::SageMaker::Domain", AppNetworkAccessType="PublicInternetOnly")),
    ("SF4", "may be shared", put("AWS::SageMaker::Domain", DefaultUserSettings={})),
    ("SF5", "LogGroup without KmsKeyId", drop("AWS::Logs::LogGroup", "KmsKeyId")),
    ("SF5", "Repository without", drop("AWS::ECR::Repository", "EncryptionConfiguration")),
    ("SF5", "Secret without", drop("AWS::SecretsManager::Secret", "KmsKeyId")),
    ("SF5", "a queue that is not", drop("AWS::SQS::Queue", "SqsManagedSseEnabled")),
    ("SF6", "a custom resource", add("Custom::Anything")),
    ("SF7", "other repositories", trust(StringEquals={"i:aud": "sts.amazonaws.com", "i:sub": "repo:org/*"})),
    ("SF7", "other repositories", trust(StringLike={"i:sub": "repo:org/name:*"})),
    ("SF8", "nobody hears", drop("AWS::CloudWatch::Alarm", "AlarmActions")),
    ("SF9", "kept for ever", drop("AWS::Logs::LogGroup", "RetentionInDays")),
    (
        "SF9",
        "SageMaker would make",
        put("AWS::SageMaker::ModelPackageGroup", ModelPackageGroupName="stepforge-prod---x"),
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_in_what_we_deploy(synth: Synth, name: str) -> None:
    for stack, template in synth.stacks.items():
        if stack.startswith(f"stepforge-{name}"):
            assert findings(template, local=name == "local") == []


@pytest.mark.parametrize(("rule", "said", "breaks"), BREAKS, ids=[f"{rule} {said}" for rule, said, _ in BREAKS])
def test_a_template_that_breaks_a_rule_is_found(
    synth: Synth, rule: str, said: str, breaks: Callable[[Json], None]
) -> None:
    template = copy.deepcopy(synth.templates["prod"])
    assert findings(template) == []
    breaks(template)
    found = findings(template)
    assert {one.rule for one in found} == {rule}
    assert any(said in one.message for one in found)


def test_every_rule_is_broken_by_a_test() -> None:
    assert {rule for rule, _, _ in BREAKS} == set(RULES)


def test_a_finding_of_ours_stops_the_synth(tmp_path: Path) -> None:
    import aws_cdk as cdk
    from aws_cdk import aws_sns as sns
    from cdk.rules import StepforgeChecks

    app = cdk.App(
        tree_metadata=False,
        analytics_reporting=False,
        outdir=str(tmp_path),
        builtin_cloud_formation_validation=False,
    )
    cdk.Validations.of(app).add_plugins(StepforgeChecks())
    sns.Topic(cdk.Stack(app, "s"), "t", enforce_ssl=True)
    with pytest.raises(Exception, match="AWS::SNS::Topic without KmsMasterKeyId"):
        app.synth()
