"""The network over three zones: `jobs` has no way out, `private` goes out by NAT, `providers` by an address of its own.

Gateways to S3 and DynamoDB cost nothing and are always there. Not covered: a firewall that looks at domain names.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.alerts import alarm
from cdk.policies import allow
from cdk.retention import RETENTION
from cdk.settings import Network as NetworkSettings
from cdk.settings import Settings

SERVICES = (
    "sagemaker.api", "sagemaker.runtime", "sts", "logs", "monitoring", "ecr.api", "ecr.dkr", "kms", "secretsmanager",
    "states", "events", "ssm", "sqs", "sns", "lambda", "xray",
)  # fmt: skip
"""Interface endpoints: what jobs, Studio and handlers in the network call."""
_GIB = 1024**3


class Network(Construct):
    """`jobs`, `providers`: the subnets. `job_group`, `provider_group`: their security groups."""

    def __init__(self, scope: Construct, settings: Settings, *, key: kms.IKey) -> None:
        super().__init__(scope, "Network")
        wanted = settings.network or NetworkSettings()
        self._name = settings.name
        nat = ec2.NatProvider.gateway()
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            vpc_name=f"stepforge-{settings.name}",
            ip_addresses=ec2.IpAddresses.cidr(wanted.cidr),
            availability_zones=list(settings.zones),
            nat_gateways=wanted.nat_gateways,
            nat_gateway_provider=nat,
            # Emptying the default security group takes a custom resource; nothing here uses that group.
            restrict_default_security_group=False,
            subnet_configuration=_subnets(wanted),
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
        )
        self.jobs = self.vpc.select_subnets(subnet_group_name="jobs")
        self.job_group = ec2.SecurityGroup(
            self, "Jobs", vpc=self.vpc, description="Training jobs", allow_all_outbound=False
        )
        # Hosts of one job talk to each other, on ports that NCCL chooses.
        self.job_group.add_ingress_rule(self.job_group, ec2.Port.all_traffic(), "hosts of one job")
        self.job_group.add_egress_rule(self.job_group, ec2.Port.all_traffic(), "hosts of one job")
        self.job_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "S3; the subnets have no other way out")
        gateways = (
            {gateway.az: gateway.gateway_id for gateway in nat.configured_gateways} if wanted.nat_gateways else {}
        )
        self.providers: list[ec2.ISubnet] = []
        if wanted.provider_egress:
            gateways["providers"] = self._provider_egress()
        self._flow_logs(settings, key)
        self._nat_alarms(gateways)
        if wanted.interface_endpoints:
            self._endpoints(wanted)

    def _provider_egress(self) -> str:
        """One more NAT gateway, whose address a provider can be told, for subnets that nothing else uses."""
        subnets = self.vpc.select_subnets(subnet_group_name="providers").subnets
        address = ec2.CfnEIP(self, "ProviderAddress", domain="vpc")
        gateway = ec2.CfnNatGateway(
            self,
            "ProviderGateway",
            subnet_id=self.vpc.public_subnets[0].subnet_id,
            allocation_id=address.attr_allocation_id,
        )
        gateway.node.add_dependency(self.vpc.internet_connectivity_established)
        for subnet in subnets:
            assert isinstance(subnet, ec2.Subnet)
            subnet.add_route("Out", router_id=gateway.ref, router_type=ec2.RouterType.NAT_GATEWAY)
        self.providers = list(subnets)
        self.provider_group = ec2.SecurityGroup(
            self,
            "Providers",
            vpc=self.vpc,
            # Another description would be another group.
            description="Handlers that call Vertex and OpenAI",
            allow_all_outbound=False,
        )
        self.provider_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "providers, over TLS")
        return gateway.ref

    def _endpoints(self, wanted: NetworkSettings) -> None:
        group = ec2.SecurityGroup(self, "Endpoints", vpc=self.vpc, description="AWS, from inside")
        group.add_ingress_rule(ec2.Peer.ipv4(wanted.cidr), ec2.Port.tcp(443), "from this network")
        for service in SERVICES:
            self.vpc.add_interface_endpoint(
                "".join(part.title() for part in service.split(".")),
                service=ec2.InterfaceVpcEndpointAwsService(service, port=443),
                subnets=ec2.SubnetSelection(subnet_group_name="jobs"),
                security_groups=[group],
                open=False,
            )

    def _flow_logs(self, settings: Settings, key: kms.IKey) -> None:
        group = logs.LogGroup(
            self,
            "FlowLogs",
            log_group_name=f"/stepforge/{settings.name}/network",
            retention=RETENTION[settings.log_retention_days],
            encryption_key=key,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        role = iam.Role(self, "FlowLogsRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
        self.vpc.add_flow_log(
            "Flows",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, role),
            traffic_type=ec2.FlowLogTrafficType.ALL,
        )

    def _nat_alarms(self, gateways: dict[str, str]) -> None:
        """Ports that run out and dropped packets are failures; gigabytes in an hour are a leak or a mistake."""
        for zone, gateway in gateways.items():
            for metric, threshold, minutes in (
                ("ErrorPortAllocation", 1, 5), ("PacketsDropCount", 100, 5), ("BytesOutToDestination", 10 * _GIB, 60),
            ):  # fmt: skip
                alarm(
                    self,
                    f"{zone}{metric}",
                    name=f"stepforge-{self._name}-nat-{zone}-{metric}",
                    says=f"{metric} of the NAT gateway {zone}",
                    runbook="A NAT gateway drops or leaks",
                    metric=cloudwatch.Metric(
                        namespace="AWS/NATGateway",
                        metric_name=metric,
                        dimensions_map={"NatGatewayId": gateway},
                        statistic="Sum",
                        period=cdk.Duration.minutes(minutes),
                    ),
                    threshold=threshold,
                )


def where_providers_are_called(network: Network | None, role: iam.Role) -> dict[str, Any]:
    """For a function that calls them: the subnets with an address of their own, where the environment has them."""
    if network is None or not network.providers:
        return {}
    role.add_to_policy(
        allow(
            [f"ec2:{verb}" for verb in (
                "CreateNetworkInterface", "DeleteNetworkInterface", "DescribeNetworkInterfaces", "DescribeSubnets",
                "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses",
            )],
            ["*"],
        )
    )  # fmt: skip
    return {
        "vpc": network.vpc,
        "vpc_subnets": ec2.SubnetSelection(subnets=network.providers),
        "security_groups": [network.provider_group],
    }


def _subnets(wanted: NetworkSettings) -> list[ec2.SubnetConfiguration]:
    """Sixteenths of the network for what grows, sixty-fourths for the rest; all of it fits into /20 too."""
    size = int(wanted.cidr.partition("/")[2])
    private = ec2.SubnetType.PRIVATE_WITH_EGRESS if wanted.nat_gateways else ec2.SubnetType.PRIVATE_ISOLATED
    found = [
        ec2.SubnetConfiguration(name="jobs", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=size + 4),
        ec2.SubnetConfiguration(name="private", subnet_type=private, cidr_mask=size + 4),
    ]
    if wanted.provider_egress:
        # Isolated to CDK, which knows one way out: the route follows.
        isolated = ec2.SubnetType.PRIVATE_ISOLATED
        found.append(ec2.SubnetConfiguration(name="providers", subnet_type=isolated, cidr_mask=size + 6))
    if wanted.nat_gateways or wanted.provider_egress:
        public = ec2.SubnetType.PUBLIC
        found.append(
            ec2.SubnetConfiguration(
                name="public", subnet_type=public, cidr_mask=size + 6, map_public_ip_on_launch=False
            )
        )
    return found
