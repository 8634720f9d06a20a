"""Whether what a template says was deployed is there: each resource is looked up by the API of its service.

A type without a line in `_LOOK` must be one that the local AWS records; anything else fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stepforge.local import LocalAws

Json = Any
ENVIRONMENT = "stepforge"


@dataclass(frozen=True)
class Resource:
    stack: str
    logical_id: str
    type: str
    physical_id: str
    properties: Json
    """As in the template, with what names another resource resolved to that resource's physical id."""


@dataclass(frozen=True)
class Deployment:
    """The stacks of an account as CloudFormation tells of them."""

    aws: LocalAws
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        return self._clients.setdefault(service, self.aws.client(service))

    def stacks(self) -> dict[str, Json]:
        found = self.client("cloudformation").describe_stacks()["Stacks"]
        return {stack["StackName"]: stack for stack in found if stack["StackName"].startswith(ENVIRONMENT)}

    @cached_property
    def resources(self) -> list[Resource]:
        cloudformation = self.client("cloudformation")
        exports = {export["Name"]: export["Value"] for export in cloudformation.list_exports()["Exports"]}
        found = []
        for stack in self.stacks():
            template = cloudformation.get_template(StackName=stack)["TemplateBody"]
            pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
            listed = [summary for page in pages for summary in page["StackResourceSummaries"]]
            names = {summary["LogicalResourceId"]: summary["PhysicalResourceId"] for summary in listed}
            assert sorted(names) == sorted(template["Resources"]), stack
            for logical_id, resource in template["Resources"].items():
                properties = _resolved(resource.get("Properties", {}), names, exports)
                found.append(Resource(stack, logical_id, resource["Type"], names[logical_id], properties))
        return found

    def of(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == kind]

    def recorded(self, kind: str) -> list[Json]:
        """Properties of the resources of a type, as Cloud Control tells them."""
        found = self.client("cloudcontrol").list_resources(TypeName=kind)["ResourceDescriptions"]
        return [json.loads(resource["Properties"]) for resource in found]

    def look_up(self, resource: Resource) -> None:
        """Raises what the service says where there is no such resource, AssertionError where it lists another."""
        look = _LOOK.get(resource.type)
        if look is None:
            self.client("cloudcontrol").get_resource(TypeName=resource.type, Identifier=resource.physical_id)
        else:
            assert look(self.client, resource) is not False, resource


def _resolved(value: Json, names: dict[str, str], exports: dict[str, str]) -> Json:
    if isinstance(value, list):
        return [_resolved(item, names, exports) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"Ref"}:
        return names.get(value["Ref"], value)
    if value.keys() == {"Fn::ImportValue"}:
        return exports[value["Fn::ImportValue"]]
    if value.keys() == {"Fn::GetAtt"}:
        return names[value["Fn::GetAtt"][0]]
    return {key: _resolved(item, names, exports) for key, item in value.items()}


Client = Callable[[str], Any]


def _vpc_part(operation: str, parameter: str, field: str) -> Callable[[Client, Resource], Any]:
    def look(client: Client, resource: Resource) -> bool:
        answer = getattr(client("ec2"), operation)(**{parameter: [resource.physical_id]})
        return len(answer[field]) == 1

    return look


def _inline_policy(client: Client, resource: Resource) -> bool:
    given = resource.properties
    roles = given.get("Roles", [])
    for role in roles:
        client("iam").get_role_policy(RoleName=role, PolicyName=given["PolicyName"])
    return bool(roles)


def _sids(policy: str | Json) -> set[str]:
    document = json.loads(policy) if isinstance(policy, str) else policy
    return {statement.get("Sid", "") for statement in document["Statement"]}


def _queue_policy(client: Client, resource: Resource) -> bool:
    return all(
        "Policy" in client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["Policy"])["Attributes"]
        for queue in resource.properties["Queues"]
    )


def _topic_policy(client: Client, resource: Resource) -> bool:
    wanted = _sids(resource.properties["PolicyDocument"])
    return all(
        wanted == _sids(client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])
        for topic in resource.properties["Topics"]
    )


def _permission(client: Client, resource: Resource) -> bool:
    function = resource.properties["FunctionName"]
    statements = json.loads(client("lambda").get_policy(FunctionName=function)["Policy"])["Statement"]
    return any(resource.properties["Principal"] in json.dumps(statement["Principal"]) for statement in statements)


def _association(client: Client, resource: Resource) -> bool:
    tables = client("ec2").describe_route_tables(RouteTableIds=[resource.properties["RouteTableId"]])["RouteTables"]
    subnets = [association.get("SubnetId") for table in tables for association in table["Associations"]]
    return resource.properties["SubnetId"] in subnets


def _route(client: Client, resource: Resource) -> bool:
    tables = client("ec2").describe_route_tables(RouteTableIds=[resource.properties["RouteTableId"]])["RouteTables"]
    wanted = resource.properties["DestinationCidrBlock"]
    return any(route.get("DestinationCidrBlock") == wanted for table in tables for route in table["Routes"])


def _rule_of_group(client: Client, resource: Resource) -> bool:
    found = client("ec2").describe_security_group_rules(SecurityGroupRuleIds=[resource.physical_id])
    return [rule["IsEgress"] for rule in found["SecurityGroupRules"]] == [resource.type.endswith("Egress")]


def _attached(client: Client, resource: Resource) -> bool:
    found = client("ec2").describe_internet_gateways()["InternetGateways"]
    return any(a["VpcId"] == resource.properties["VpcId"] for gateway in found for a in gateway["Attachments"])


def _rotates(client: Client, resource: Resource) -> bool:
    return client("secretsmanager").describe_secret(SecretId=resource.physical_id)["RotationEnabled"]


def _subscribed(client: Client, resource: Resource) -> bool:
    found = client("sns").list_subscriptions_by_topic(TopicArn=resource.properties["TopicArn"])["Subscriptions"]
    return any(subscription["Endpoint"] == resource.properties["Endpoint"] for subscription in found)


_LOOK: dict[str, Callable[[Client, Resource], Any]] = {
    "AWS::Budgets::Budget": lambda c, r: c("budgets").describe_budget(
        AccountId="000000000000", BudgetName=r.physical_id
    ),
    "AWS::CloudTrail::Trail": lambda c, r: c("cloudtrail").get_trail(Name=r.physical_id),
    "AWS::CloudWatch::Alarm": lambda c, r: bool(
        c("cloudwatch").describe_alarms(AlarmNames=[r.physical_id])["MetricAlarms"]
    ),
    "AWS::CloudWatch::Dashboard": lambda c, r: c("cloudwatch").get_dashboard(DashboardName=r.physical_id),
    "AWS::CodeBuild::Project": lambda c, r: bool(c("codebuild").batch_get_projects(names=[r.physical_id])["projects"]),
    "AWS::DynamoDB::Table": lambda c, r: c("dynamodb").describe_table(TableName=r.physical_id),
    "AWS::EC2::EIP": lambda c, r: bool(c("ec2").describe_addresses(PublicIps=[r.physical_id])["Addresses"]),
    "AWS::EC2::FlowLog": _vpc_part("describe_flow_logs", "FlowLogIds", "FlowLogs"),
    "AWS::EC2::InternetGateway": _vpc_part("describe_internet_gateways", "InternetGatewayIds", "InternetGateways"),
    "AWS::EC2::NatGateway": _vpc_part("describe_nat_gateways", "NatGatewayIds", "NatGateways"),
    "AWS::EC2::Route": _route,
    "AWS::EC2::RouteTable": _vpc_part("describe_route_tables", "RouteTableIds", "RouteTables"),
    "AWS::EC2::SecurityGroup": _vpc_part("describe_security_groups", "GroupIds", "SecurityGroups"),
    "AWS::EC2::SecurityGroupEgress": _rule_of_group,
    "AWS::EC2::SecurityGroupIngress": _rule_of_group,
    "AWS::EC2::Subnet": _vpc_part("describe_subnets", "SubnetIds", "Subnets"),
    "AWS::EC2::SubnetRouteTableAssociation": _association,
    "AWS::EC2::VPC": _vpc_part("describe_vpcs", "VpcIds", "Vpcs"),
    "AWS::EC2::VPCEndpoint": _vpc_part("describe_vpc_endpoints", "VpcEndpointIds", "VpcEndpoints"),
    "AWS::EC2::VPCGatewayAttachment": _attached,
    "AWS::ECR::Repository": lambda c, r: c("ecr").describe_repositories(repositoryNames=[r.physical_id]),
    "AWS::Events::Rule": lambda c, r: bool(
        c("events").list_targets_by_rule(Rule=r.physical_id.rpartition("/")[2])["Targets"]
    ),
    "AWS::IAM::ManagedPolicy": lambda c, r: c("iam").get_policy(PolicyArn=r.physical_id),
    "AWS::IAM::OIDCProvider": lambda c, r: c("iam").get_open_id_connect_provider(
        OpenIDConnectProviderArn=r.physical_id
    ),
    "AWS::IAM::Policy": _inline_policy,
    "AWS::IAM::Role": lambda c, r: c("iam").get_role(RoleName=r.physical_id),
    "AWS::KMS::Alias": lambda c, r: c("kms").describe_key(KeyId=r.physical_id),
    "AWS::KMS::Key": lambda c, r: c("kms").describe_key(KeyId=r.physical_id)["KeyMetadata"]["Enabled"],
    "AWS::Lambda::Function": lambda c, r: c("lambda").get_function(FunctionName=r.physical_id),
    "AWS::Lambda::LayerVersion": lambda c, r: c("lambda").get_layer_version_by_arn(Arn=r.physical_id),
    "AWS::Lambda::Permission": _permission,
    "AWS::Logs::LogGroup": lambda c, r: any(
        group["logGroupName"] == r.physical_id
        for group in c("logs").describe_log_groups(logGroupNamePrefix=r.physical_id)["logGroups"]
    ),
    "AWS::S3::Bucket": lambda c, r: c("s3").head_bucket(Bucket=r.physical_id),
    "AWS::S3::BucketPolicy": lambda c, r: c("s3").get_bucket_policy(Bucket=r.properties["Bucket"]),
    "AWS::SNS::Subscription": _subscribed,
    "AWS::SNS::Topic": lambda c, r: c("sns").get_topic_attributes(TopicArn=r.physical_id),
    "AWS::SNS::TopicPolicy": _topic_policy,
    "AWS::SQS::Queue": lambda c, r: c("sqs").get_queue_attributes(QueueUrl=r.physical_id, AttributeNames=["QueueArn"]),
    "AWS::SQS::QueuePolicy": _queue_policy,
    "AWS::SSM::Parameter": lambda c, r: c("ssm").get_parameter(Name=r.physical_id),
    "AWS::SageMaker::ModelPackageGroup": lambda c, r: c("sagemaker").describe_model_package_group(
        ModelPackageGroupName=r.physical_id.rpartition("/")[2]
    ),
    "AWS::SecretsManager::ResourcePolicy": lambda c, r: c("secretsmanager").get_resource_policy(SecretId=r.physical_id)[
        "ResourcePolicy"
    ],
    "AWS::SecretsManager::RotationSchedule": _rotates,
    "AWS::SecretsManager::Secret": lambda c, r: c("secretsmanager").describe_secret(SecretId=r.physical_id),
    "AWS::StepFunctions::StateMachineAlias": lambda c, r: c("stepfunctions").describe_state_machine_alias(
        stateMachineAliasArn=r.physical_id
    ),
    "AWS::StepFunctions::StateMachineVersion": lambda c, r: c("stepfunctions").describe_state_machine(
        stateMachineArn=r.physical_id
    ),
    "AWS::StepFunctions::StateMachine": lambda c, r: c("stepfunctions").describe_state_machine(
        stateMachineArn=r.physical_id
    ),
}
