"""The stacks of dev, staging and prod: what is encrypted, kept, watched and apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from cdk.images import Images
from cdk.settings import Settings, settings

from stepforge.contracts.names import ENVIRONMENT_TAG, parameter
from stepforge.errors import UnknownPrice

from .conftest import Synth
from .machines import resources
from .principals import Cloud
from .test_templates import handler_variables

CLOUDS = ("dev", "staging", "prod")
KEPT = ("data", "secrets", "images", "studio")


def only(template: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = resources(template, kind).values()
    return found


# ── Two environments in one account and region ───────────────────────────────────────────────────

NAMED = {
    "AWS::Budgets::Budget": "Budget.BudgetName", "AWS::CloudWatch::Alarm": "AlarmName", "AWS::EC2::VPC": "CidrBlock",
    "AWS::CloudWatch::Dashboard": "DashboardName", "AWS::CodeBuild::Project": "Name",
    "AWS::CloudTrail::Trail": "TrailName", "AWS::DynamoDB::Table": "TableName",
    "AWS::ECR::Repository": "RepositoryName", "AWS::Events::Rule": "Name", "AWS::IAM::ManagedPolicy":
    "ManagedPolicyName", "AWS::IAM::Role": "RoleName", "AWS::KMS::Alias": "AliasName", "AWS::Lambda::Function":
    "FunctionName", "AWS::Logs::LogGroup": "LogGroupName", "AWS::S3::Bucket": "BucketName", "AWS::SNS::Topic":
    "TopicName", "AWS::SQS::Queue": "QueueName", "AWS::SSM::Parameter": "Name", "AWS::SageMaker::Domain": "DomainName",
    "AWS::SageMaker::MlflowApp": "Name", "AWS::SageMaker::ModelPackageGroup": "ModelPackageGroupName",
    "AWS::SecretsManager::Secret": "Name", "AWS::StepFunctions::StateMachine": "StateMachineName",
}  # fmt: skip
"""Where a resource says a name that an account and region have once."""


def claimed(stacks: dict[str, Any], environment: str) -> set[tuple[str, str]]:
    """All names that the stacks of an environment take, exports and the stacks themselves among them."""
    found = set()
    for stack, template in stacks.items():
        if stack != f"stepforge-{environment}" and not stack.startswith(f"stepforge-{environment}-"):
            continue
        found.add(("stack", stack))
        found |= {("export", o["Export"]["Name"]) for o in template.get("Outputs", {}).values() if "Export" in o}
        for kind, path in NAMED.items():
            for properties in resources(template, kind).values():
                value: Any = properties
                for part in path.split("."):
                    value = value.get(part) if isinstance(value, dict) else None
                if value is not None:
                    found.add((kind, json.dumps(value)))
    return found


@pytest.mark.parametrize(("one", "other"), [("dev", "staging"), ("dev", "prod"), ("staging", "prod")])
def test_two_environments_in_one_account_and_region_take_no_name_in_common(synth: Synth, one: str, other: str) -> None:
    taken = claimed(synth.stacks, one)
    assert len(taken) > 80
    assert taken & claimed(synth.stacks, other) == set()


def test_every_kind_that_is_given_a_name_is_compared(synth: Synth) -> None:
    """A new resource with a fixed name would pass the test above unseen."""
    endings = ("Name", "AliasName")
    harmless = {
        "AWS::IAM::Policy",
        "AWS::Budgets::BudgetsAction",
        "AWS::SageMaker::UserProfile",
        "AWS::Lambda::Permission",
    }
    for kind in {r["Type"] for name in CLOUDS for r in synth.templates[name]["Resources"].values()} - harmless:
        for properties in resources(synth.templates["prod"], kind).values():
            given = [k for k, v in properties.items() if k.endswith(endings) and "stepforge-" in json.dumps(v)]
            assert not given or kind in NAMED, (kind, given)


def test_what_an_account_has_once_is_the_same_stack_whoever_brings_it(tmp_path: Path) -> None:
    from cdk.app import build, templates

    found = [templates(build(name, outdir=str(tmp_path / name)))["stepforge-account"] for name in ("dev", "prod")]
    assert found[0] == found[1]
    assert "dev" not in json.dumps(found[0]["Resources"])


def test_every_resource_that_can_be_tagged_carries_its_environment(synth: Synth) -> None:
    for name in CLOUDS:
        for kind in (
            "AWS::S3::Bucket",
            "AWS::KMS::Key",
            "AWS::Lambda::Function",
            "AWS::EC2::VPC",
            "AWS::ECR::Repository",
        ):
            for properties in resources(synth.templates[name], kind).values():
                assert {"Key": ENVIRONMENT_TAG, "Value": name} in properties["Tags"], kind


# ── What is kept, and how ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CLOUDS)
def test_what_holds_data_is_kept_and_its_stacks_refuse_to_go(synth: Synth, name: str) -> None:
    manifest = json.loads((synth.folder / "manifest.json").read_text())["artifacts"]
    for part in KEPT:
        assert manifest[f"stepforge-{name}-{part}"]["properties"]["terminationProtection"], part
    stateful = (
        "AWS::S3::Bucket",
        "AWS::KMS::Key",
        "AWS::SecretsManager::Secret",
        "AWS::ECR::Repository",
        "AWS::SageMaker::Domain",
    )
    kept = [r for r in synth.templates[name]["Resources"].values() if r["Type"] in stateful]
    assert len(kept) >= 14
    assert {(r["DeletionPolicy"], r["UpdateReplacePolicy"]) for r in kept} == {("Retain", "Retain")}


def test_the_data_lake_has_its_prefixes_events_logs_and_alarms(synth: Synth) -> None:
    stack = synth.stacks["stepforge-dev-data"]
    bucket = next(b for n, b in resources(stack, "AWS::S3::Bucket").items() if n.startswith("DataBucket"))
    rules = {rule.get("Prefix") for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert rules == {None, "checkpoints/", "raw/", "curated/", "model-ready/", "evaluations/", "logs/"}
    assert bucket["NotificationConfiguration"] == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}
    assert bucket["LoggingConfiguration"]["LogFilePrefix"] == "data/"
    metrics = {alarm["MetricName"] for alarm in resources(stack, "AWS::CloudWatch::Alarm").values()}
    assert metrics == {"4xxErrors", "5xxErrors"}


@pytest.mark.parametrize("name", CLOUDS)
def test_every_key_rotates_and_is_used_by_principals_through_its_services_alone(synth: Synth, name: str) -> None:
    keys = resources(synth.templates[name], "AWS::KMS::Key")
    assert len(keys) == 6
    for identifier, key in keys.items():
        assert key["EnableKeyRotation"] is True
        for statement in key["KeyPolicy"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions), identifier
            using = {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:CreateGrant"} & set(actions)
            assert not using or "Condition" in statement, (identifier, statement)


# ── Network ──────────────────────────────────────────────────────────────────────────────────────


def routes(stack: dict[str, Any]) -> dict[str, set[str]]:
    """Kind of subnets to how they reach the internet: `nat`, `providers`, `gateway`, or not at all."""
    tables = {
        a["SubnetId"]["Ref"]: a["RouteTableId"]["Ref"]
        for a in resources(stack, "AWS::EC2::SubnetRouteTableAssociation").values()
    }
    out: dict[str, str] = {}
    for route in resources(stack, "AWS::EC2::Route").values():
        through = route.get("NatGatewayId", route.get("GatewayId"))["Ref"]
        how = "gateway" if "IGW" in through else "providers" if "ProviderGateway" in through else "nat"
        out[route["RouteTableId"]["Ref"]] = how
    found: dict[str, set[str]] = {}
    for subnet, properties in resources(stack, "AWS::EC2::Subnet").items():
        (kind,) = [t["Value"] for t in properties["Tags"] if t["Key"] == "aws-cdk:subnet-name"]
        found.setdefault(kind, set()).add(out.get(tables[subnet], "none"))
    return found


def test_jobs_have_no_way_out_and_providers_one_of_their_own(synth: Synth) -> None:
    expected = {"jobs": {"none"}, "private": {"nat"}, "providers": {"providers"}, "public": {"gateway"}}
    assert routes(synth.stacks["stepforge-prod-network"]) == expected
    assert routes(synth.stacks["stepforge-dev-network"]) == {"jobs": {"none"}, "private": {"none"}}
    stack = synth.stacks["stepforge-prod-network"]
    assert len({s["AvailabilityZone"] for s in resources(stack, "AWS::EC2::Subnet").values()}) == 3
    assert not any(s.get("MapPublicIpOnLaunch") for s in resources(stack, "AWS::EC2::Subnet").values())


@pytest.mark.parametrize("name", CLOUDS)
def test_the_subnets_of_jobs_reach_s3_by_a_gateway(synth: Synth, name: str) -> None:
    stack = synth.stacks[f"stepforge-{name}-network"]
    jobs = {n for n in resources(stack, "AWS::EC2::RouteTable") if "jobs" in n}
    gateways = [e for e in resources(stack, "AWS::EC2::VPCEndpoint").values() if e.get("VpcEndpointType") == "Gateway"]
    assert len(jobs) == 3
    assert len(gateways) == 2
    for gateway in gateways:
        assert jobs <= {table["Ref"] for table in gateway["RouteTableIds"]}


def test_flows_are_logged_and_every_nat_gateway_has_its_alarms(synth: Synth) -> None:
    stack = synth.stacks["stepforge-prod-network"]
    assert only(stack, "AWS::EC2::FlowLog")["TrafficType"] == "ALL"
    gateways = set(resources(stack, "AWS::EC2::NatGateway"))
    watched: dict[str, set[str]] = {}
    for alarm in resources(stack, "AWS::CloudWatch::Alarm").values():
        watched.setdefault(alarm["Dimensions"][0]["Value"]["Ref"], set()).add(alarm["MetricName"])
    assert len(gateways) == 4
    metrics = {"ErrorPortAllocation", "PacketsDropCount", "BytesOutToDestination"}
    assert watched == dict.fromkeys(gateways, metrics)


def test_jobs_are_told_the_network_that_they_run_in(synth: Synth) -> None:
    found = {p["Name"]: p["Value"] for p in resources(synth.templates["dev"], "AWS::SSM::Parameter").values()}
    assert {parameter("dev", "network/subnets"), parameter("dev", "network/security-groups")} <= set(found)
    assert len(found[parameter("dev", "network/subnets")]["Fn::Join"][1]) == 5


# ── Secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CLOUDS)
def test_every_secret_rotates_has_no_value_of_the_templates_and_is_written_by_its_rotation_alone(
    synth: Synth, name: str
) -> None:
    stack = synth.stacks[f"stepforge-{name}-secrets"]
    secrets = resources(stack, "AWS::SecretsManager::Secret")
    assert {s["Name"].rpartition("/")[2] for s in secrets.values()} == {"openai", "anthropic", "hugging-face"}
    assert not any({"SecretString", "GenerateSecretString"} & set(s) for s in secrets.values())
    schedules = resources(stack, "AWS::SecretsManager::RotationSchedule").values()
    assert {s["SecretId"]["Ref"] for s in schedules} == set(secrets)
    assert {s["RotateImmediatelyOnUpdate"] for s in schedules} == {False}
    for policy in resources(stack, "AWS::SecretsManager::ResourcePolicy").values():
        writing, changing = policy["ResourcePolicy"]["Statement"]
        assert {(s["Effect"], s["Principal"]) for s in (writing, changing)} == {("Deny", "*")}
        assert "secretsmanager:PutSecretValue" in writing["Action"]
        assert "secretsmanager:DeleteSecret" in changing["Action"]


def test_the_rotation_functions_have_the_variables_that_they_read_and_run_where_providers_are_reached(
    synth: Synth, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = handler_variables("rotate_secret", monkeypatch)
    for name, placed in (("dev", False), ("prod", True)):
        for function in resources(synth.stacks[f"stepforge-{name}-secrets"], "AWS::Lambda::Function").values():
            given = set(function["Environment"]["Variables"])
            assert {"PROVIDER", "HAND_IN", "STEM"} <= given <= read
            assert ("VpcConfig" in function) is placed


@pytest.mark.parametrize(("name", "elsewhere"), [("dev", False), ("staging", True), ("prod", True)])
def test_who_calls_providers_and_nobody_else_goes_out_by_their_address(
    synth: Synth, name: str, elsewhere: bool
) -> None:
    template = synth.templates[name]
    functions = resources(template, "AWS::Lambda::Function").values()
    placed = {f["FunctionName"].removeprefix(f"stepforge-{name}-") for f in functions if "VpcConfig" in f}
    rotations = {f"rotate-{provider}" for provider in ("openai", "anthropic", "hugging-face")}
    assert placed == ({*rotations, "finetune", "finetune-stopped"} if elsewhere else set())
    groups = {json.dumps(f["VpcConfig"]["SecurityGroupIds"]) for f in functions if "VpcConfig" in f}
    assert all("Providers" in group for group in groups)


def test_a_step_of_a_rotation_has_time_for_every_call_that_it_may_wait_for(synth: Synth) -> None:
    """The longest is Vertex's finishSecret: a test, a token, a list, and the 8 of 10 keys that are taken away."""
    from stepforge.rotation import providers

    call, tries, pause = providers._SECONDS, providers.Vertex.TRIES, providers.Vertex.PAUSE_SECONDS
    longest = tries * call + (tries - 1) * pause + 2 * call + 8 * call
    for function in resources(synth.stacks["stepforge-prod-secrets"], "AWS::Lambda::Function").values():
        assert function["Timeout"] >= longest


# ── Images, money, alarms, people ────────────────────────────────────────────────────────────────


def test_images_are_scanned_and_tags_never_written_twice(synth: Synth) -> None:
    repositories = resources(synth.stacks["stepforge-dev-images"], "AWS::ECR::Repository").values()
    assert {r["RepositoryName"] for r in repositories} == {
        f"stepforge-dev-{n}" for n in ("data", "serve", "train", "train-cuda")
    }
    assert all(r["ImageScanningConfiguration"]["ScanOnPush"] for r in repositories)
    assert {r["ImageTagMutability"] for r in repositories} == {"IMMUTABLE"}


def test_the_build_starts_when_its_stack_is_deployed(synth: Synth) -> None:
    rule = only(synth.stacks["stepforge-dev-images"], "AWS::Events::Rule")
    detail = rule["EventPattern"]["detail"]
    assert detail == {
        "stack-id": [{"Ref": "AWS::StackId"}],
        "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]},
    }
    assert "DeadLetterConfig" in rule["Targets"][0]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, " --gpu"),
        ({"vllm": True}, " --gpu --vllm"),
        ({"train_instance_type": "ml.m5.xlarge"}, ""),
    ],
    ids=["gpu", "vllm", "cpu"],
)
def test_the_build_is_told_what_the_environment_s_image_has(given: dict[str, Any], options: str) -> None:
    stack = Stack(App(), "Images")
    Images(stack, Settings.model_validate(settings("dev").model_dump() | given), key=kms.Key(stack, "Key"))
    project = only(Template.from_stack(stack).to_json(), "AWS::CodeBuild::Project")
    command = json.dumps(project["Source"]["BuildSpec"]).partition("containers/publish.py")[2]
    assert "--environment dev" in command
    assert "".join(re.findall(r" --(?:gpu|vllm)", command)) == options


def test_the_build_gets_the_sources_that_docker_would_and_no_more(synth: Synth) -> None:
    (folder,) = {path.parent.parent for path in synth.folder.glob("asset.*/containers/publish.py")}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {".dockerignore", "containers/train/Dockerfile", "sdk/stepforge/installation/code_digest.py"} <= names
    assert {"jobs/stepforge_jobs/main.py", "containers/data/requirements.lock"} <= names
    assert not [name for name in names if name.startswith(("sdk/stepforge/local/", "sdk/stepforge/cli/", "tests/"))]


def test_at_its_limit_the_budget_holds_what_starts_jobs_and_endpoints(synth: Synth) -> None:
    template = synth.templates["dev"]
    action = only(template, "AWS::Budgets::BudgetsAction")
    held = {role["Ref"] for role in action["Definition"]["IamActionDefinition"]["Roles"]}
    assert {name.partition("Role")[0] for name in held} == {"MachinesRunJob", "FunctionsDeploy", "FunctionsFinetune"}
    assert (action["ApprovalModel"], action["ActionType"]) == ("AUTOMATIC", "APPLY_IAM_POLICY")
    notes = only(template, "AWS::Budgets::Budget")["NotificationsWithSubscribers"]
    assert {(n["Notification"]["NotificationType"], n["Notification"]["Threshold"]) for n in notes} == {
        ("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100),
    }  # fmt: skip


@pytest.mark.parametrize("name", CLOUDS)
def test_every_alarm_is_told_and_shown(synth: Synth, name: str) -> None:
    alarms = resources(synth.templates[name], "AWS::CloudWatch::Alarm").values()
    (topic,) = [n for n in resources(synth.templates[name], "AWS::SNS::Topic") if n.startswith("Alerts")]
    assert {json.dumps(a["AlarmActions"]) for a in alarms} == {json.dumps([{"Ref": topic}])}
    page = json.dumps(only(synth.templates[name], "AWS::CloudWatch::Dashboard"))
    assert [a["AlarmName"] for a in alarms if f"alarm:{a['AlarmName']}" not in page] == []


@pytest.mark.parametrize("name", ["local", *CLOUDS])
def test_every_alarm_names_the_runbook_that_helps(synth: Synth, name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "runbooks.md").read_text()
    headings = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    alarms = resources(synth.templates[name], "AWS::CloudWatch::Alarm").values()
    assert len(alarms) >= 9
    for alarm in alarms:
        said = re.fullmatch(r'(?P<says>.{10,}?)\. docs/runbooks\.md: "(?P<heading>[^"]+)"', alarm["AlarmDescription"])
        assert said is not None, alarm["AlarmName"]
        assert said["heading"] in headings, alarm["AlarmName"]


@pytest.mark.parametrize("person", ["approver", "housekeeper", "operator"])
def test_the_role_of_a_person_has_what_they_have_and_nothing_else(synth: Synth, person: str) -> None:
    template = synth.templates["dev"]
    named = f"stepforge-dev-{person}"
    (role,) = (n for n, r in resources(template, "AWS::IAM::Role").items() if r.get("RoleName") == named)
    attached = {
        template["Resources"][arn["Ref"]]["Properties"]["ManagedPolicyName"]
        for arn in resources(template, "AWS::IAM::Role")[role]["ManagedPolicyArns"]
    }
    assert attached == {named, *(() if person == "operator" else ("stepforge-dev-viewer",))}
    assert not any({"Ref": role} in p["Roles"] for p in resources(template, "AWS::IAM::Policy").values())


@pytest.mark.parametrize("name", CLOUDS)
def test_a_managed_policy_fits_into_what_iam_takes(synth: Synth, name: str) -> None:
    """6,144 characters without white space; a bucket's name has 63 at most, and a key's 36."""
    cloud = Cloud(synth.templates[name])
    for logical, policy in resources(synth.templates[name], "AWS::IAM::ManagedPolicy").items():
        text = json.dumps(cloud.plain(policy["PolicyDocument"]), separators=(",", ":"))
        longest = text.replace(cloud.arn("DataBucket"), "arn:aws:s3:::" + "b" * 63).replace("keysdata", "k" * 36)
        assert len(longest) <= 6_144, logical


OWNERS = "arn:aws-us-gov:iam::111122223333:role/owners"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The stacks of `dev` with five values of one's own, in a region of another partition."""
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    from cdk import app
    from cdk.settings import settings

    five = {"account": "111122223333", "repository": "org/name", "email": "a@example.com", "approvers": (OWNERS,)}
    given = settings("dev").model_copy(update={**five, "region": "us-gov-west-1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "settings", lambda _: given)
        return app.templates(app.build("dev", outdir=str(tmp_path_factory.mktemp("elsewhere"))))


def test_in_a_region_of_another_partition_every_arn_is_of_it(elsewhere: dict[str, Any]) -> None:
    text = json.dumps(elsewhere)
    assert set(re.findall(r"arn:(aws[a-z-]*|\$\{[^}]*\}):", text)) == {"aws-us-gov"}
    machines = resources(elsewhere["stepforge-dev"], "AWS::StepFunctions::StateMachine").values()
    assert any("arn:aws-us-gov:states:::sagemaker:createTrainingJob.sync" in json.dumps(m) for m in machines)


def test_with_a_repository_ci_plans_from_pull_requests_and_deploys_from_its_environment(
    elsewhere: dict[str, Any],
) -> None:
    found = elsewhere
    roles = {
        r["RoleName"]: r
        for r in resources(found["stepforge-dev-operations"], "AWS::IAM::Role").values()
        if "RoleName" in r
    }
    subjects = {
        name: role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]["StringEquals"][
            "token.actions.githubusercontent.com:sub"
        ]
        for name, role in roles.items()
    }
    assert subjects == {
        "stepforge-dev-plan": "repo:org/name:pull_request",
        "stepforge-dev-deploy": "repo:org/name:environment:dev",
    }
    assert only(found["stepforge-dev-data"], "AWS::SNS::Subscription")["Endpoint"] == "a@example.com"
    approver = next(
        r for r in resources(found["stepforge-dev"], "AWS::IAM::Role").values() if "approver" in r.get("RoleName", "")
    )
    trusted = approver["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
    assert trusted == {"AWS": OWNERS}


def test_studio_is_inside_the_network(synth: Synth) -> None:
    domain = only(synth.stacks["stepforge-prod-studio"], "AWS::SageMaker::Domain")
    assert (domain["AppNetworkAccessType"], domain["DomainName"]) == ("VpcOnly", "stepforge-prod")


def test_mlflow_registers_no_model_by_itself(synth: Synth) -> None:
    app = only(synth.stacks["stepforge-dev-studio"], "AWS::SageMaker::MlflowApp")
    assert app["ModelRegistrationMode"] == "AutoModelRegistrationDisabled"


# ── What it costs while nobody works ─────────────────────────────────────────────────────────────


def idle(synth: Synth, name: str) -> dict[str, float]:
    from cdk.idle import idle_usd

    return idle_usd([synth.templates[name], synth.stacks["stepforge-account"]])


def test_an_idle_dev_costs_at_most_60_usd_a_month_as_the_readme_says(synth: Synth) -> None:
    from cdk.idle import table

    costs = idle(synth, "dev")
    assert 15 < sum(costs.values()) <= 60
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"{sum(costs.values()):.0f} USD a month" in readme
    deploy = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    assert table(costs) in deploy, "run `python -m cdk.idle dev` and put its table into docs/deploy.md"


def test_an_idle_prod_pays_for_gateways_and_endpoints(synth: Synth) -> None:
    costs = idle(synth, "prod")
    assert costs["AWS::EC2::NatGateway x 4"] == pytest.approx(131.40)
    assert costs["AWS::EC2::VPCEndpoint x 48"] == pytest.approx(350.40)


def test_what_a_standing_endpoint_costs_is_what_the_readme_and_the_docs_say() -> None:
    from cdk.idle import endpoint_usd
    from cdk.settings import settings

    usd = {}
    for name in CLOUDS:
        found = settings(name)
        usd[name] = f"{endpoint_usd(found.serve_instance_type, found.serve_instances):.0f}"
    assert usd["prod"] == "336"
    for page in ("README.md", "docs/deploy.md"):
        text = (Path(__file__).parents[2] / page).read_text()
        assert f"{usd['dev']} USD a month in `dev` and `staging` and {usd['prod']} in `prod`" in text, page
    assert usd["dev"] == usd["staging"]


def test_what_has_no_price_is_refused() -> None:
    from cdk.idle import endpoint_usd, idle_usd

    with pytest.raises(UnknownPrice, match=r"ml\.p5"):
        endpoint_usd("ml.p5.48xlarge", 1)

    with pytest.raises(UnknownPrice, match="AWS::EKS::Cluster"):
        idle_usd([{"Resources": {"Cluster": {"Type": "AWS::EKS::Cluster"}}}])


def test_on_the_local_aws_account_and_region_of_the_file_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from cdk.app import placed
    from cdk.settings import parse

    network = {"zones": ["eu-west-1a", "eu-west-1b", "eu-west-1c"]}
    plain = {"account": "111122223333", "region": "eu-west-1", "network": network}
    given = parse("dev", plain, source="dev.toml")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert placed(given) == given
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    here = placed(given)
    assert (here.account, here.region) == (None, "us-east-1")
    assert here.zones == ("us-east-1a", "us-east-1b", "us-east-1c")
