"""Types of CloudFormation that the local AWS makes or records, and the roles that who deploys assumes."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from stepforge.cli import _local
from stepforge.local import LocalAws
from tests.functional.local_aws.helpers import ROLE, bucket, wait

Json = Any
STACK = "types"


def get(logical_id: str, attribute: str) -> Json:
    return {"Fn::GetAtt": [logical_id, attribute]}


def ref(logical_id: str) -> Json:
    return {"Ref": logical_id}


RESOURCES: dict[str, tuple[str, Json]] = {
    "Vpc": ("EC2::VPC", {"CidrBlock": "10.77.0.0/16"}),
    "Subnet": ("EC2::Subnet", {"VpcId": ref("Vpc"), "CidrBlock": "10.77.0.0/20"}),
    "Group": ("EC2::SecurityGroup", {"GroupDescription": "jobs", "VpcId": ref("Vpc"), "SecurityGroupEgress": []}),
    "In": (
        "EC2::SecurityGroupIngress",
        {"GroupId": get("Group", "GroupId"), "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
         "CidrIp": "10.77.0.0/16", "Description": "inside"},
    ),
    "Out": (
        "EC2::SecurityGroupEgress",
        {"GroupId": get("Group", "GroupId"), "IpProtocol": "-1", "DestinationSecurityGroupId": get("Group", "GroupId")},
    ),
    "Flow": (
        "EC2::FlowLog",
        {"ResourceId": ref("Vpc"), "ResourceType": "VPC", "TrafficType": "ALL", "LogGroupName": "/flows",
         "DeliverLogsPermissionArn": ROLE, "Tags": [{"Key": "a", "Value": "b"}]},
    ),
    "Address": ("EC2::EIP", {"Domain": "vpc", "Tags": [{"Key": "a", "Value": "b"}]}),
    "Nat": ("EC2::NatGateway", {"SubnetId": ref("Subnet"), "AllocationId": get("Address", "AllocationId")}),
    "GitHub": ("IAM::OIDCProvider", {"Url": "https://tokens.example.com", "ClientIdList": ["sts.amazonaws.com"]}),
    "Trail": (
        "CloudTrail::Trail",
        {"TrailName": "watch", "S3BucketName": "trails", "IsLogging": True, "IsMultiRegionTrail": True,
         "EnableLogFileValidation": True, "EventSelectors": []},
    ),
    "Budget": (
        "Budgets::Budget",
        {
            "Budget": {"BudgetName": "spent", "BudgetType": "COST", "TimeUnit": "MONTHLY",
                       "BudgetLimit": {"Amount": 300, "Unit": "USD"}},
            "NotificationsWithSubscribers": [
                {
                    "Notification": {"ComparisonOperator": "GREATER_THAN", "NotificationType": "ACTUAL",
                                     "Threshold": 80, "ThresholdType": "PERCENTAGE"},
                    "Subscribers": [{"SubscriptionType": "EMAIL", "Address": "who@example.com"}],
                }
            ],
        },
    ),
    "Action": (
        "Budgets::BudgetsAction",
        {"BudgetName": ref("Budget"), "ActionType": "APPLY_IAM_POLICY", "NotificationType": "ACTUAL",
         "ActionThreshold": {"Type": "PERCENTAGE", "Value": 100}, "ExecutionRoleArn": ROLE,
         "Definition": {"IamActionDefinition": {"PolicyArn": "arn:aws:iam::aws:policy/AWSDenyAll", "Roles": ["r"]}}},
    ),
    "Analyzer": ("AccessAnalyzer::Analyzer", {"AnalyzerName": "who", "Type": "ACCOUNT"}),
    "Mlflow": ("SageMaker::MlflowApp", {"Name": "runs", "ArtifactStoreUri": "s3://trails/runs", "RoleArn": ROLE}),
    "Domain": (
        "SageMaker::Domain",
        {"DomainName": "studio", "AuthMode": "IAM", "AppNetworkAccessType": "VpcOnly", "VpcId": ref("Vpc"),
         "SubnetIds": [ref("Subnet")], "DefaultUserSettings": {"ExecutionRole": ROLE}},
    ),
    "Profile": ("SageMaker::UserProfile", {"DomainId": get("Domain", "DomainId"), "UserProfileName": "research"}),
}  # fmt: skip
OUTPUTS = {
    "AllocationId": get("Address", "AllocationId"),
    "NatId": get("Nat", "NatGatewayId"),
    "TrailArn": get("Trail", "Arn"),
    "DomainArn": get("Domain", "DomainArn"),
    "ProfileArn": get("Profile", "UserProfileArn"),
    "MlflowArn": get("Mlflow", "Arn"),
    "ActionId": get("Action", "ActionId"),
}


def template(resources: dict[str, tuple[str, Json]] = RESOURCES) -> str:
    made = {name: {"Type": f"AWS::{kind}", "Properties": given} for name, (kind, given) in resources.items()}
    return json.dumps({"Resources": made, "Outputs": {name: {"Value": value} for name, value in OUTPUTS.items()}})


def rest(aws: LocalAws) -> Json:
    cloudformation = aws.client("cloudformation")
    stack = wait(
        lambda: cloudformation.describe_stacks(StackName=STACK)["Stacks"][0],
        lambda found: not found["StackStatus"].endswith("_IN_PROGRESS"),
    )
    events = cloudformation.describe_stack_events(StackName=STACK)["StackEvents"]
    failed = [event.get("ResourceStatusReason") for event in events if event["ResourceStatus"].endswith("_FAILED")]
    assert failed == []
    return stack


def names(aws: LocalAws) -> dict[str, str]:
    listed = aws.client("cloudformation").list_stack_resources(StackName=STACK)["StackResourceSummaries"]
    return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in listed}


def recorded(aws: LocalAws, kind: str, identifier: str) -> Json:
    found = aws.client("cloudcontrol").get_resource(TypeName=f"AWS::{kind}", Identifier=identifier)
    return json.loads(found["ResourceDescription"]["Properties"])


@pytest.fixture(scope="module")
def deployed(local_aws: LocalAws) -> dict[str, str]:
    bucket(local_aws, "trails")
    local_aws.client("cloudformation").create_stack(StackName=STACK, TemplateBody=template())
    assert rest(local_aws)["StackStatus"] == "CREATE_COMPLETE"
    return names(local_aws)


def test_types_without_a_maker_upstream_are_made_by_their_services(
    local_aws: LocalAws, deployed: dict[str, str]
) -> None:
    ec2 = local_aws.client("ec2")
    (group,) = ec2.describe_security_groups(GroupIds=[deployed["Group"]])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["IpRanges"]) == (443, [{"CidrIp": "10.77.0.0/16", "Description": "inside"}])
    assert any(deployed["Group"] in json.dumps(out["UserIdGroupPairs"]) for out in group["IpPermissionsEgress"])
    (flow,) = ec2.describe_flow_logs(FlowLogIds=[deployed["Flow"]])["FlowLogs"]
    assert (flow["ResourceId"], flow["TrafficType"], flow["Tags"]) == (
        deployed["Vpc"], "ALL", [{"Key": "a", "Value": "b"}],
    )  # fmt: skip
    outputs = {o["OutputKey"]: o["OutputValue"] for o in rest(local_aws)["Outputs"]}
    (address,) = ec2.describe_addresses(PublicIps=[deployed["Address"]])["Addresses"]
    assert (address["AllocationId"], address["Tags"]) == (outputs["AllocationId"], [{"Key": "a", "Value": "b"}])
    (gateway,) = ec2.describe_nat_gateways(NatGatewayIds=[deployed["Nat"]])["NatGateways"]
    assert (gateway["SubnetId"], outputs["NatId"]) == (deployed["Subnet"], deployed["Nat"])
    provider = local_aws.client("iam").get_open_id_connect_provider(OpenIDConnectProviderArn=deployed["GitHub"])
    assert provider["ClientIDList"] == ["sts.amazonaws.com"]
    cloudtrail = local_aws.client("cloudtrail")
    trail = cloudtrail.get_trail(Name=deployed["Trail"])["Trail"]
    assert (trail["TrailARN"], trail["LogFileValidationEnabled"]) == (outputs["TrailArn"], True)
    assert cloudtrail.get_trail_status(Name="watch")["IsLogging"]
    asked = {"AccountId": local_aws.account_id, "BudgetName": deployed["Budget"]}
    budgets = local_aws.client("budgets")
    assert budgets.describe_budget(**asked)["Budget"]["BudgetLimit"] == {"Amount": "300", "Unit": "USD"}
    assert [n["Threshold"] for n in budgets.describe_notifications_for_budget(**asked)["Notifications"]] == [80.0]


def test_types_without_a_service_are_recorded_with_references_resolved(
    local_aws: LocalAws, deployed: dict[str, str]
) -> None:
    outputs = {o["OutputKey"]: o["OutputValue"] for o in rest(local_aws)["Outputs"]}
    domain = recorded(local_aws, "SageMaker::Domain", deployed["Domain"])
    assert domain["SubnetIds"] == [deployed["Subnet"]]
    assert (domain["DomainId"], domain["DomainArn"]) == (deployed["Domain"], outputs["DomainArn"])
    assert outputs["ProfileArn"].endswith(f":user-profile/{deployed['Domain']}/research")
    assert recorded(local_aws, "SageMaker::UserProfile", f"research|{deployed['Domain']}")["UserProfileName"]
    assert recorded(local_aws, "SageMaker::MlflowApp", outputs["MlflowArn"])["ArtifactStoreUri"] == "s3://trails/runs"
    assert deployed["Action"] == f"{outputs['ActionId']}|spent"
    assert recorded(local_aws, "Budgets::BudgetsAction", deployed["Action"])["BudgetName"] == "spent"
    assert deployed["Analyzer"].endswith(":analyzer/who")


def test_an_update_changes_in_place_what_can_be_and_replaces_the_rest(
    local_aws: LocalAws, deployed: dict[str, str]
) -> None:
    changed = copy.deepcopy(RESOURCES)
    changed["Budget"][1]["Budget"]["BudgetLimit"]["Amount"] = 400
    changed["Trail"][1]["IsLogging"] = False
    changed["Domain"][1]["DefaultUserSettings"]["StudioWebPortal"] = "ENABLED"
    changed["Profile"][1]["UserProfileName"] = "people"
    changed["GitHub"][1]["ClientIdList"] = ["sts.amazonaws.com", "other"]
    changed["In"][1]["ToPort"] = 444
    local_aws.client("cloudformation").update_stack(StackName=STACK, TemplateBody=template(changed))
    assert rest(local_aws)["StackStatus"] == "UPDATE_COMPLETE"
    now = names(local_aws)
    assert {name for name in now if now[name] != deployed[name]} == {"Profile", "In"}
    domain = recorded(local_aws, "SageMaker::Domain", now["Domain"])
    assert (domain["DefaultUserSettings"]["StudioWebPortal"], domain["Url"][:8]) == ("ENABLED", "https://")
    budget = local_aws.client("budgets").describe_budget(AccountId=local_aws.account_id, BudgetName="spent")["Budget"]
    assert budget["BudgetLimit"]["Amount"] == "400"
    assert not local_aws.client("cloudtrail").get_trail_status(Name="watch")["IsLogging"]
    provider = local_aws.client("iam").get_open_id_connect_provider(OpenIDConnectProviderArn=now["GitHub"])
    assert provider["ClientIDList"] == ["sts.amazonaws.com", "other"]
    profiles = local_aws.client("cloudcontrol").list_resources(TypeName="AWS::SageMaker::UserProfile")
    assert [p["Identifier"] for p in profiles["ResourceDescriptions"]] == [f"people|{now['Domain']}"]
    (group,) = local_aws.client("ec2").describe_security_groups(GroupIds=[now["Group"]])["SecurityGroups"]
    assert [rule["ToPort"] for rule in group["IpPermissions"]] == [444]


def test_deleting_the_stack_leaves_none_of_them(local_aws: LocalAws, deployed: dict[str, str]) -> None:
    cloudformation = local_aws.client("cloudformation")
    stack = rest(local_aws)["StackId"]
    cloudformation.delete_stack(StackName=STACK)
    wait(
        lambda: cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"],
        lambda status: not status.endswith("_IN_PROGRESS"),
    )
    assert cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"] == "DELETE_COMPLETE"
    cloudcontrol = local_aws.client("cloudcontrol")
    for kind in ("Domain", "UserProfile", "MlflowApp"):
        assert cloudcontrol.list_resources(TypeName=f"AWS::SageMaker::{kind}")["ResourceDescriptions"] == []
    assert local_aws.client("ec2").describe_flow_logs(FlowLogIds=[deployed["Flow"]])["FlowLogs"] == []
    assert local_aws.client("cloudtrail").describe_trails()["trailList"] == []
    assert local_aws.client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"] == []
    assert local_aws.client("budgets").describe_budgets(AccountId=local_aws.account_id).get("Budgets", []) == []


def session(aws: LocalAws, **changed: str) -> Any:
    given = aws.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="deploy")["Credentials"]
    given |= changed
    made = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], aws.region)
    return made.client("sts", endpoint_url=aws.endpoint_url)


def test_who_assumes_a_role_comes_in_with_its_keys(local_aws: LocalAws) -> None:
    identity = session(local_aws).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{local_aws.account_id}:assumed-role/service/deploy"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"SessionToken": "forged"}, "InvalidToken"),
        ({"SecretAccessKey": "forged"}, "SignatureDoesNotMatch"),
        ({"AccessKeyId": "ASIA0000000000000000"}, "InvalidAccessKeyId"),
    ],
    ids=["token", "secret", "id"],
)
def test_part_of_a_sessions_key_is_not_enough(local_aws: LocalAws, changed: dict[str, str], code: str) -> None:
    with pytest.raises(ClientError) as error:
        session(local_aws, **changed).get_caller_identity()
    assert error.value.response["Error"]["Code"] == code


def test_a_command_is_given_the_local_aws_and_no_account(
    local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "an-account")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-an-account")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://sts.amazonaws.com")
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Account']); raise SystemExit(3)"
    assert _local.run([sys.executable, "-c", script]) == 3
    assert capfd.readouterr().out.strip() == local_aws.account_id
