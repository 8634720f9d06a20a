"""The synthesised templates: fresh, linted, and no wider than they say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.environment import Environment
from stepforge.contracts.names import parameter
from stepforge.installation.assets import folder
from stepforge.local.deploy import TEMPLATE

from .conftest import Synth
from .machines import LOCAL, resources

ENVIRONMENTS = ("local", "dev")
WITHOUT_RESOURCE = {
    "xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets",
    "ec2:DescribeDhcpOptions", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets",
    "ec2:DescribeVpcs", "ecr:GetAuthorizationToken", "cloudwatch:PutMetricData", "sagemaker:ListModelPackageGroups",
    "sagemaker:ListEndpoints",
    "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups",
}  # fmt: skip
"""Actions for which IAM knows no resource, or CDK grants them so."""


def statements(template: dict[str, Any]) -> list[dict[str, Any]]:
    policies = resources(template, "AWS::IAM::Policy").values()
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_committed_local_template_is_fresh(synth: Synth) -> None:
    from cdk.local_template import text

    assert TEMPLATE.read_text() == text(synth.templates["local"]), "run `python -m cdk.local_template` and commit"


def test_the_local_template_holds_no_hash_and_needs_no_bootstrap() -> None:
    functions = resources(LOCAL, "AWS::Lambda::Function").values()
    assert {json.dumps(f["Code"]) for f in functions} == {
        json.dumps({"S3Bucket": {"Ref": "AssetBucket"}, "S3Key": {"Ref": "AssetKey"}})
    }
    assert set(LOCAL["Parameters"]) == {"AssetBucket", "AssetKey"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_star_resource_stands_only_where_iam_knows_no_other(synth: Synth, name: str) -> None:
    for statement in statements(synth.templates[name]):
        if "*" in listed(statement["Resource"]) and statement["Effect"] == "Allow":
            assert set(listed(statement["Action"])) <= WITHOUT_RESOURCE, statement


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_statement_has_a_star_in_its_actions(synth: Synth, name: str) -> None:
    assert [a for s in statements(synth.templates[name]) for a in listed(s["Action"]) if "*" in a] == []


def literal(resource: Any) -> str:
    """An ARN with `*` for what only a deployment knows; `*` alone where all of it is unknown."""
    if isinstance(resource, str):
        return resource
    ((function, argument),) = resource.items()
    if function == "Fn::Join":
        return argument[0].join(literal(part) for part in argument[1])
    return "*"


@pytest.mark.parametrize("name", [*ENVIRONMENTS, "prod"])
def test_every_action_is_granted_on_a_kind_of_resource_that_it_has(synth: Synth, name: str) -> None:
    """IAM takes a grant on a resource that the action does not know, and it then allows nothing."""
    pytest.importorskip("cfnlint", reason="the extra [dev] is not installed")
    known = json.loads(resource_files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text())
    checked = 0
    for statement in statements(synth.templates[name]):
        arns = [literal(resource) for resource in listed(statement["Resource"])]
        if any(arn == "*" for arn in arns):
            continue
        for action in listed(statement["Action"]):
            service, _, verb = action.partition(":")
            kinds = known[service]["Actions"][verb.lower()].get("Resources")
            assert kinds is not None, f"{action} takes no resource: {arns}"
            # Some kinds stand in the table in other letters than in its list of actions.
            described = {kind.lower(): about for kind, about in known[service]["Resources"].items()}
            formats = [f for kind in kinds for f in described[kind.lower()]["ARNFormats"]]
            if service == "s3":
                continue
            stems = [re.split(r"[/:]", f.split(":", 5)[5])[0] for f in formats]
            found = [re.split(r"[/:]", arn.split(":", 5)[5])[0] for arn in arns]
            assert any(stem in stems for stem in found), f"{action} is granted on {arns}, but knows {formats}"
            checked += 1
    assert checked > 50


def test_roles_are_passed_to_sagemaker_alone(synth: Synth) -> None:
    passing = [s for s in statements(synth.templates["dev"]) if "iam:PassRole" in listed(s["Action"])]
    assert len(passing) == 2
    for statement in passing:
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_the_bucket_is_encrypted_versioned_private_and_speaks_tls_only(synth: Synth) -> None:
    template = synth.templates["dev"]
    data = next(b for n, b in resources(template, "AWS::S3::Bucket").items() if n.startswith("DataBucket"))
    assert data["VersioningConfiguration"] == {"Status": "Enabled"}
    rule = data["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"]
    assert rule["SSEAlgorithm"] == "aws:kms"
    assert set(data["PublicAccessBlockConfiguration"].values()) == {True}
    denied = [
        s for p in resources(template, "AWS::S3::BucketPolicy").values() for s in p["PolicyDocument"]["Statement"]
    ]
    assert {"Bool": {"aws:SecureTransport": "false"}} in [s.get("Condition") for s in denied if s["Effect"] == "Deny"]
    assert template["Resources"][next(iter(resources(template, "AWS::KMS::Key")))]["DeletionPolicy"] == "Retain"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_parameters_are_the_fields_of_an_environment_but_images_and_code(synth: Synth, name: str) -> None:
    found = {p["Name"] for p in resources(synth.templates[name], "AWS::SSM::Parameter").values()}
    # Images and code are published by what builds them; this machine has neither a network nor a budget.
    published = {"name", "images", "code"} | ({"budget-usd", "network"} if name == "local" else set())
    fields = {field.replace("_", "-") for field in Environment.model_fields} - published
    assert {path.removeprefix(parameter(name, "")).split("/")[0] for path in found} == fields


def test_only_where_jobs_may_run_in_a_vpc_does_their_role_make_network_interfaces(synth: Synth) -> None:
    assert not any("ec2:" in json.dumps(s) for s in statements(synth.templates["local"]))
    main = synth.stacks["stepforge-dev"]
    given = {a for s in statements(main) for a in listed(s["Action"]) if a.startswith("ec2:")}
    assert {"ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission", "ec2:DescribeSubnets"} <= given
    policies = resources(main, "AWS::IAM::Policy")
    making = {name.partition("DefaultPolicy")[0] for name, p in policies.items() if "ec2:" in json.dumps(p)}
    assert making == {"RolesDataset", "RolesGate", "RolesTraining", "RolesEvaluate"}


def test_lost_approvals_go_to_the_dead_letters_and_are_swept(synth: Synth) -> None:
    rules = resources(synth.templates["dev"], "AWS::Events::Rule").values()
    assert all("DeadLetterConfig" in target for rule in rules for target in rule["Targets"])
    assert [rule["ScheduleExpression"] for rule in rules if "ScheduleExpression" in rule] == ["rate(15 minutes)"]


def handler_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The environment variables that a handler's model reads."""
    path = folder("lambdas") / f"{name}.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"_handler_{name}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    # pydantic looks a class's annotations up in its module.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert callable(module.handler)
    return {field.upper() for field in module.Environment.model_fields} if hasattr(module, "Environment") else set()


def test_every_function_has_its_handler_and_exactly_the_variables_that_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    functions = {f["Handler"].removesuffix(".handler"): f for f in resources(LOCAL, "AWS::Lambda::Function").values()}
    # Nobody's key of a provider is kept on this machine, so nothing rotates there: see test_environments.
    handlers = {p.stem for p in folder("lambdas").glob("*.py") if not p.stem.startswith("_")}
    assert set(functions) == handlers - {"rotate_secret"}
    for name, function in functions.items():
        given = set(function.get("Environment", {}).get("Variables", {}))
        assert given == handler_variables(name, monkeypatch), name


def asset(synth: Synth, *, judges: bool) -> set[str]:
    """The files of the handlers' asset, or of the one that judges paid tunes too."""
    folders = {path.parent for path in Path(synth.folder).glob("asset.*/plan_job.py")}
    (folder,) = (found for found in folders if (found / "stepforge_jobs").exists() is judges)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_asset_of_paid_tunes_has_what_judges_them_and_nothing_for_people(synth: Synth) -> None:
    finetune = asset(synth, judges=True)
    assert {"finetune.py", "stepforge/finetune/flow.py", "stepforge/economics/catalogue.toml"} <= finetune
    assert {"stepforge_jobs/domains/user.py", "stepforge_jobs/domains/facial/rules.py"} <= finetune
    assert not any(name.startswith(("stepforge/local/", "stepforge/cli/", "stepforge/testing/")) for name in finetune)


def test_the_asset_of_the_handlers_is_handlers_beside_the_sdk_and_nothing_else(synth: Synth) -> None:
    names = asset(synth, judges=False)
    assert {"plan_job.py", "rotate_secret.py", "_runtime.py", "stepforge/contracts/jobs.py"} <= names
    prices = "stepforge/economics/prices.json"
    assert prices in names
    names -= {prices}
    assert [n for n in names if not n.endswith(".py") or "__pycache__" in n or n.startswith("stepforge/local/")] == []


def test_a_wildcard_that_nobody_acknowledged_stops_the_synth(tmp_path: Path) -> None:
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    import aws_cdk as cdk
    import cdk_nag
    from aws_cdk import aws_iam as iam

    app = cdk.App(
        tree_metadata=False,
        analytics_reporting=False,
        outdir=str(tmp_path),
        builtin_cloud_formation_validation=False,
    )
    cdk.Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks())
    role = iam.Role(cdk.Stack(app, "s"), "r", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=["*"]))
    with pytest.raises(Exception, match="wildcard permissions"):
        app.synth()
