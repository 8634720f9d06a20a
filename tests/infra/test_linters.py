"""asl-validator over every state machine, parliament over every policy, cfn-lint over every template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.names import MACHINES
from stepforge.installation.assets import folder
from tests.support.iam import listed

from .conftest import NAMES, Synth
from .linters import audit_policies, missing, validate_machines
from .principals import Cloud

Json = Any
CLOUDS = ("dev", "staging", "prod")
PARTS = ("data", "network", "secrets", "images", "studio", "operations")
STACKS = ["account", "local", *CLOUDS, *(f"{name}-{part}" for name in CLOUDS for part in PARTS)]


@pytest.fixture(scope="module")
def _installed() -> None:
    """A linter that is not there has found nothing, which must not look like nothing to find."""
    if why := missing():
        pytest.fail(why, pytrace=False)


# ── State machines ───────────────────────────────────────────────────────────────────────────────

FILES = [folder("statemachines") / f"{name}.asl.json" for name in MACHINES]


@pytest.mark.usefixtures("_installed")
def test_asl_validator_finds_nothing_in_any_machine() -> None:
    assert set(FILES) == set(folder("statemachines").glob("*.asl.json"))
    assert validate_machines(FILES) == ""


@pytest.mark.usefixtures("_installed")
def test_asl_validator_finds_a_state_that_does_not_exist(tmp_path: Path) -> None:
    broken = json.loads(FILES[0].read_text())
    broken["StartAt"] = "Nowhere"
    (tmp_path / "broken.asl.json").write_text(json.dumps(broken))
    assert "Nowhere" in validate_machines([*FILES, tmp_path / "broken.asl.json"])


# ── Policies ─────────────────────────────────────────────────────────────────────────────────────

KINDS = {
    "AWS::IAM::Policy": "PolicyDocument", "AWS::IAM::ManagedPolicy": "PolicyDocument",
    "AWS::IAM::Role": "AssumeRolePolicyDocument", "AWS::KMS::Key": "KeyPolicy",
    "AWS::S3::BucketPolicy": "PolicyDocument", "AWS::SQS::QueuePolicy": "PolicyDocument",
    "AWS::SNS::TopicPolicy": "PolicyDocument", "AWS::SecretsManager::ResourcePolicy": "ResourcePolicy",
}  # fmt: skip
"""Where a kind of resource has a policy."""

ACKNOWLEDGED: dict[tuple[str, str, str], str] = {
    (r"(Train|Evaluate|Dataset)Role|Deploy|OnApproval|Stopped|(View|Operat)", "RESOURCE_MISMATCH", r"states:\w+Exec"): (
        "it wants an ARN of every kind that the action knows; express executions and map runs are not ours"
    ),
    (r"Key", "RESOURCE_MISMATCH", r"kms:\w+Alias"): "an alias is granted on the key, in its policy, and on the alias",
    (r"^local KeysData", "RESOURCE_MISMATCH", r"kms:"): "CDK's policy of a key: the account may do all with it",
    (r"KeysLogs|TrailKey", "MISMATCHED_TYPE", r"Arn(Like|Equals)"): "as CloudWatch Logs documents a key's policy",
    (r"KeysLogs|TrailKey", "UNKNOWN_CONDITION_FOR_ACTION", r"kms:DescribeKey"): "the same document",
    (r"Bucket|AccessLogs|Trail", "MISMATCHED_TYPE", r"s3:TlsVersion"): "it takes whole numbers alone for numbers",
    (r"Bucket|AccessLogs|Trail", "UNKNOWN_CONDITION_FOR_ACTION", r"s3:TlsVersion"): "CDK's deny is of all of S3",
    (r"Register|OnApproval|OnRejection|FinetuneRole", "UNKNOWN_CONDITION_FOR_ACTION", r"ModelLifeCycle:stage"): (
        "SageMaker has the key since model life cycles; its list is older"
    ),
    (r"^staging .*Finetune", "INVALID_ARN", r"Account expected"): "SageMaker's public hub is AWS's, in no account",
    (r"^staging .*Finetune", "UNKNOWN_ACTION", r"CustomModelDeployment"): "Bedrock has it; its list is older",
    (r"Studio", "UNKNOWN_ACTION", r"Mlflow"): "SageMaker has it since serverless MLflow; its list is older",
    (r"^staging Ci", "UNKNOWN_CONDITION_FOR_ACTION", r"token\.actions"): "an identity provider's own keys",
    (r"^staging Ci", "UNKNOWN_FEDERATION_SOURCE", r"token\.actions"): "GitHub, as an identity provider of the account",
    (r"Secrets|Finetune", "RESOURCE_STAR", r"ec2:\w+NetworkInterface"): "Lambda makes a function's interfaces",
}  # fmt: skip
"""Policy and detail, as patterns, with the issue between: findings that stand as they are, and why."""


def documents(synth: Synth) -> Iterator[tuple[str, Json]]:
    """Every policy document with concrete ARNs; what a trust or a key policy is about is itself."""
    for name, template in {**synth.templates, "account": synth.stacks["stepforge-account"]}.items():
        cloud = Cloud(template)
        for logical, resource in template["Resources"].items():
            properties = resource.get("Properties", {})
            found = [properties[KINDS[resource["Type"]]]] if resource["Type"] in KINDS else []
            found += [policy["PolicyDocument"] for policy in properties.get("Policies", ())]
            for number, document in enumerate(found):
                plain = texts(cloud.plain(document))
                for statement in plain["Statement"]:
                    if resource["Type"] == "AWS::KMS::Key" or "Resource" not in statement:
                        statement["Resource"] = cloud._arn(logical)
                yield f"{name} {logical} {number}", plain


def texts(value: Json) -> Json:
    """With numbers and booleans as texts, as IAM takes them."""
    if isinstance(value, dict):
        return {key: texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [texts(item) for item in value]
    return value if isinstance(value, str) else str(value).lower()


@pytest.mark.usefixtures("_installed")
def test_parliament_finds_nothing_in_any_policy_but_what_is_acknowledged(synth: Synth) -> None:
    policies = dict(documents(synth))
    assert len(policies) > 350
    assert {action for p in policies.values() for s in p["Statement"] for action in listed(s["Action"])}
    used, open_ = set(), []
    for name, issue, detail in audit_policies(policies):
        reasons = [
            key for key in ACKNOWLEDGED if key[1] == issue and re.search(key[0], name) and re.search(key[2], detail)
        ]
        used.update(reasons)
        open_ += [] if reasons else [(name, issue, detail)]
    assert open_ == []
    assert set(ACKNOWLEDGED) - used == set(), "acknowledged, and found no more"


@pytest.mark.usefixtures("_installed")
def test_parliament_finds_an_action_that_does_not_exist_and_a_condition_that_never_holds() -> None:
    grant = {"Effect": "Allow", "Resource": "arn:aws:kms:us-east-1:123456789012:key/0"}
    bad = [
        {**grant, "Action": "kms:Decrypted"},
        {**grant, "Action": "kms:DescribeKey", "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}},
    ]
    found = audit_policies({"p": {"Version": "2012-10-17", "Statement": bad}})
    assert [issue for _, issue, _ in found] == ["UNKNOWN_ACTION", "UNKNOWN_CONDITION_FOR_ACTION"]


# ── Templates ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stack", STACKS)
def test_cfn_lint_finds_nothing(synth: Synth, stack: str) -> None:
    # No skip: a linter that is not there has found nothing, which must not look like nothing to find.
    from cfnlint import api as lint
    from cfnlint.config import ManualArgs

    # W3005: CDK states dependencies on a role that GetAtt states already. W3010: the settings name the zones.
    arguments = ManualArgs(ignore_checks=["W3005", "W3010"], regions=["us-east-1"])
    found = lint.lint(json.dumps(synth.stacks[f"stepforge-{stack}"]), config=arguments)
    assert [f"{match.rule.id} {match.message}" for match in found] == []


def test_every_stack_is_linted(synth: Synth) -> None:
    assert set(synth.stacks) == {f"stepforge-{stack}" for stack in STACKS}
    assert set(NAMES) == {"local", *CLOUDS}
