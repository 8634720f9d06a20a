"""CloudFormation: resource types that a service here keeps, and that upstream's CloudFormation cannot make.

What comes of them is read where AWS shows it too: DescribeSecurityGroups, DescribeFlowLogs, GetTrail, DescribeBudget.
Without a change in place each is replaced, which is what CloudFormation does with all their properties but tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import ministack.services.cloudformation.provisioners as provisioners
import ministack.services.ec2 as ec2
import ministack.services.iam as iam

Json = Any
Made = tuple[str, Json]


def install() -> None:
    provisioners._RESOURCE_HANDLERS.update(
        {
            "AWS::EC2::SecurityGroupIngress": _rule("ingress", "Source"),
            "AWS::EC2::SecurityGroupEgress": _rule("egress", "Destination"),
            "AWS::EC2::FlowLog": _replaced(create_flow_log, delete_flow_log),
            "AWS::EC2::EIP": _replaced(create_address, delete_address),
            "AWS::EC2::NatGateway": _replaced(create_nat_gateway, delete_nat_gateway),
            "AWS::IAM::OIDCProvider": {
                "create": create_oidc_provider,
                "update": update_oidc_provider,
                "delete": delete_oidc_provider,
            },
            "AWS::CloudTrail::Trail": {"create": create_trail, "update": update_trail, "delete": delete_trail},
            "AWS::Budgets::Budget": {"create": create_budget, "update": update_budget, "delete": delete_budget},
        }
    )


def _replaced(create: Callable[[str, Json, str], Made], delete: Callable[[str, Json], None]) -> Json:
    def update(physical_id: str, old: Json, new: Json, stack: str) -> Made:
        # The engine deletes what was before, by its id, once the whole update has succeeded.
        return create("", new, stack)

    return {"create": create, "update": update, "delete": delete}


def _answer(answer: Json) -> str:
    """The body of what a service's function answered. Raises ValueError with the service's error."""
    status, _, body = answer
    text = body if isinstance(body, str) else body.decode()
    if status >= 400:
        raise ValueError(text)
    return text


def _element(xml: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", xml)
    if found is None:
        raise ValueError(f"there is no <{name}> in {xml}")
    return found.group(1)


def _form(plain: Json, prefix: str = "") -> dict[str, list[str]]:
    """Parameters as the query protocol of EC2 sends them: `IpPermissions.1.IpProtocol`."""
    if isinstance(plain, dict):
        items = [(f"{prefix}.{name}" if prefix else name, value) for name, value in plain.items()]
    elif isinstance(plain, list):
        items = [(f"{prefix}.{number}", value) for number, value in enumerate(plain, 1)]
    else:
        return {prefix: [str(plain)]}
    return {name: value for path, inner in items for name, value in _form(inner, path).items()}


def _tags(properties: Json, kind: str) -> Json:
    return [{"ResourceType": kind, "Tag": properties["Tags"]}] if properties.get("Tags") else []


# --- EC2


def _rule(direction: str, side: str) -> Json:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-securitygroupingress.html"""
    authorize, revoke = getattr(ec2, f"_authorize_sg_{direction}"), getattr(ec2, f"_revoke_sg_{direction}")

    def create(logical_id: str, properties: Json, stack: str) -> Made:
        told = {"Description": properties["Description"]} if properties.get("Description") else {}
        permission = {key: properties[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in properties}
        for key, field, name in (
            ("CidrIp", "IpRanges", "CidrIp"),
            ("CidrIpv6", "Ipv6Ranges", "CidrIpv6"),
            (f"{side}SecurityGroupId", "Groups", "GroupId"),
            (f"{side}PrefixListId", "PrefixListIds", "PrefixListId"),
        ):
            if key in properties:
                permission[field] = [{name: properties[key], **told}]
        request = _form({"GroupId": properties["GroupId"], "IpPermissions": [permission]})
        found = _element(_answer(authorize(request)), "securityGroupRuleId")
        return found, {"Id": found}

    def delete(physical_id: str, properties: Json) -> None:
        # A group that is gone took its rules along.
        if properties["GroupId"] in ec2._security_groups:
            _answer(revoke(_form({"GroupId": properties["GroupId"], "SecurityGroupRuleId": [physical_id]})))

    return _replaced(create, delete)


def create_flow_log(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-flowlog.html"""
    request = {key: properties[key] for key in properties if key not in ("ResourceId", "Tags")}
    request |= {"ResourceId": [properties["ResourceId"]], "TagSpecification": _tags(properties, "flow-log")}
    found = _element(_answer(ec2._create_flow_logs(_form(request))), "item")
    return found, {"Id": found}


def delete_flow_log(physical_id: str, properties: Json) -> None:
    _answer(ec2._delete_flow_logs(_form({"FlowLogId": [physical_id]})))


def create_address(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-eip.html"""
    request = {"Domain": properties.get("Domain", "vpc"), "TagSpecification": _tags(properties, "elastic-ip")}
    answer = _answer(ec2._allocate_address(_form(request)))
    address = _element(answer, "publicIp")
    return address, {"PublicIp": address, "AllocationId": _element(answer, "allocationId")}


def delete_address(physical_id: str, properties: Json) -> None:
    for allocation, address in list(ec2._addresses.items()):
        if address["PublicIp"] == physical_id:
            _answer(ec2._release_address(_form({"AllocationId": allocation})))


def create_nat_gateway(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-natgateway.html"""
    request = {key: properties[key] for key in properties if key != "Tags"}
    request["TagSpecification"] = _tags(properties, "natgateway")
    found = _element(_answer(ec2._create_nat_gateway(_form(request))), "natGatewayId")
    return found, {"NatGatewayId": found}


def delete_nat_gateway(physical_id: str, properties: Json) -> None:
    if physical_id in ec2._nat_gateways:
        _answer(ec2._delete_nat_gateway(_form({"NatGatewayId": physical_id})))


# --- IAM


def create_oidc_provider(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iam-oidcprovider.html"""
    request = {"Url": properties["Url"]}
    for key, name in (("ClientIdList", "ClientIDList"), ("ThumbprintList", "ThumbprintList"), ("Tags", "Tags")):
        request[name] = {"member": properties.get(key, [])}
    arn = _element(_answer(iam._create_oidc_provider(_form(request))), "OpenIDConnectProviderArn")
    return arn, {"Arn": arn}


def update_oidc_provider(physical_id: str, old: Json, new: Json, stack: str) -> Made:
    """Another URL is another provider; the rest changes under the same ARN."""
    if old["Url"] == new["Url"]:
        delete_oidc_provider(physical_id, old)
    return create_oidc_provider("", new, stack)


def delete_oidc_provider(physical_id: str, properties: Json) -> None:
    if physical_id in iam._oidc_providers:
        _answer(iam._delete_oidc_provider(_form({"OpenIDConnectProviderArn": physical_id})))


# --- CloudTrail


def create_trail(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-cloudtrail-trail.html"""
    import ministack.services.cloudtrail as cloudtrail

    name = properties.get("TrailName") or provisioners._physical_name(stack, logical_id)
    _answer(cloudtrail._create_trail(_trail(name, properties)))
    return name, _follow_trail(name, properties)


def update_trail(physical_id: str, old: Json, new: Json, stack: str) -> Made:
    import ministack.services.cloudtrail as cloudtrail

    if new.get("TrailName", physical_id) != physical_id:
        return create_trail("", new, stack)
    _answer(cloudtrail._update_trail(_trail(physical_id, new)))
    return physical_id, _follow_trail(physical_id, new)


def delete_trail(physical_id: str, properties: Json) -> None:
    import ministack.services.cloudtrail as cloudtrail

    _answer(cloudtrail._delete_trail({"Name": physical_id}))


def _trail(name: str, properties: Json) -> Json:
    known = (
        "S3BucketName",
        "S3KeyPrefix",
        "SnsTopicName",
        "IncludeGlobalServiceEvents",
        "IsMultiRegionTrail",
        "EnableLogFileValidation",
        "IsOrganizationTrail",
        "CloudWatchLogsLogGroupArn",
        "CloudWatchLogsRoleArn",
    )
    request = {"Name": name, **{key: properties[key] for key in known if key in properties}}
    return request | ({"KmsKeyId": properties["KMSKeyId"]} if "KMSKeyId" in properties else {})


def _follow_trail(name: str, properties: Json) -> Json:
    """What the API wants by other calls: selectors, and whether it logs. An empty list leaves the default selectors."""
    import ministack.services.cloudtrail as cloudtrail

    for field in ("EventSelectors", "AdvancedEventSelectors"):
        if properties.get(field):
            _answer(cloudtrail._put_event_selectors({"TrailName": name, field: properties[field]}))
    turn = cloudtrail._start_logging if provisioners._cfn_bool(properties["IsLogging"]) else cloudtrail._stop_logging
    _answer(turn({"Name": name}))
    return {"Arn": json.loads(_answer(cloudtrail._get_trail({"Name": name})))["Trail"]["TrailARN"]}


# --- Budgets


def create_budget(logical_id: str, properties: Json, stack: str) -> Made:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-budgets-budget.html"""
    import ministack.services.budgets as budgets

    budget = _budget(properties)
    budget.setdefault("BudgetName", provisioners._physical_name(stack, logical_id))
    _answer(budgets._create_budget({**properties, "Budget": budget}))
    return budget["BudgetName"], {}


def update_budget(physical_id: str, old: Json, new: Json, stack: str) -> Made:
    """Notifications are replaced with their budget, the rest changes in place."""
    import ministack.services.budgets as budgets

    if new["Budget"].get("BudgetName", physical_id) != physical_id:
        return create_budget("", new, stack)
    if old.get("NotificationsWithSubscribers") != new.get("NotificationsWithSubscribers"):
        delete_budget(physical_id, old)
        return create_budget("", {**new, "Budget": {"BudgetName": physical_id, **new["Budget"]}}, stack)
    _answer(budgets._update_budget({"NewBudget": {**_budget(new), "BudgetName": physical_id}}))
    return physical_id, {}


def delete_budget(physical_id: str, properties: Json) -> None:
    import ministack.services.budgets as budgets

    _answer(budgets._delete_budget({"BudgetName": physical_id}))


def _budget(properties: Json) -> Json:
    """Money is text in the API and a number in a template."""
    budget = dict(properties["Budget"])
    if limit := budget.get("BudgetLimit"):
        budget["BudgetLimit"] = {**limit, "Amount": str(limit["Amount"])}
    return budget
