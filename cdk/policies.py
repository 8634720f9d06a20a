"""Policy statements with exact resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import IConstruct

from stepforge.contracts.names import LIVE, STARTED_AS, group_prefix
from stepforge.contracts.resources import OWN_STORAGE

DECIDES = {"Null": {"sagemaker:ModelApprovalStatus": "false", "sagemaker:ModelLifeCycle:stage": "true"}}
"""Condition on a change of a package that approves or rejects it: a version's stage is its promotion's to write."""


def groups(environment: str) -> str:
    """Model package groups, endpoints, models and configurations of an environment."""
    return f"{group_prefix(environment)}*"


def images(environment: str) -> str:
    """Repositories of an environment's images; those of the local AWS have no other environment beside them."""
    return "repository/stepforge-*" if environment == "local" else f"repository/stepforge-{environment}-*"


def arns(scope: IConstruct, service: str, *resources: str) -> list[str]:
    """ARNs in the partition, region and account of the stack that `scope` is in."""
    stack = cdk.Stack.of(scope)
    stem = f"arn:{stack.partition}:{service}:{stack.region}:{stack.account}:"
    return [stem + resource for resource in resources]


def allow(actions: Sequence[str], resources: Sequence[str], **conditions: Any) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions or None)


def start(*machine_arns: str) -> iam.PolicyStatement:
    """Executions of machines, by their alias alone: a gradual deployment is gone round by nobody."""
    return allow(["states:StartExecution"], machine_arns, **{"ForAnyValue:StringEquals": {STARTED_AS: [LIVE]}})


def read_objects(bucket: s3.IBucket, *prefixes: str) -> list[iam.PolicyStatement]:
    """Without ListBucket a missing object says 403 and not 404, and nobody could tell the two apart."""
    return [
        allow(["s3:GetObject"], [bucket.arn_for_objects(f"{prefix}/*") for prefix in prefixes]),
        allow(["s3:ListBucket"], [bucket.bucket_arn], StringLike={"s3:prefix": [f"{prefix}/*" for prefix in prefixes]}),
    ]


def write_objects(bucket: s3.IBucket, *prefixes: str) -> iam.PolicyStatement:
    objects = [bucket.arn_for_objects(f"{prefix}/*") for prefix in prefixes]
    return allow(["s3:PutObject", "s3:AbortMultipartUpload"], objects)


def use_key(key: kms.IKey, *, write: bool = False) -> iam.PolicyStatement:
    return allow(["kms:Decrypt", *(["kms:GenerateDataKey"] if write else [])], [key.key_arn])


def use_table(table: dynamodb.ITable, key: kms.IKey, *actions: str) -> list[iam.PolicyStatement]:
    """DynamoDB uses a table's key in the name of whoever asks for an item, and for nothing else.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
    """
    region = cdk.Stack.of(table).region
    return [
        allow([f"dynamodb:{action}" for action in actions], [table.table_arn]),
        allow(
            ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:DescribeKey"],
            [key.key_arn],
            StringEquals={"kms:ViaService": f"dynamodb.{region}.amazonaws.com"},
        ),
    ]


def grant_key_to_aws(key: kms.IKey) -> list[iam.PolicyStatement]:
    """SageMaker encrypts volumes through grants that it makes in the caller's name."""
    return [
        allow(["kms:CreateGrant"], [key.key_arn], Bool={"kms:GrantIsForAWSResource": "true"}),
        # Apart: a look at a key makes no grant, so that the condition would never hold.
        allow(["kms:DescribeKey"], [key.key_arn]),
    ]


def pass_roles(*roles: iam.IRole) -> iam.PolicyStatement:
    """To SageMaker and no other service."""
    return allow(
        ["iam:PassRole"],
        [role.role_arn for role in roles],
        StringEquals={"iam:PassedToService": "sagemaker.amazonaws.com"},
    )


def deny(actions: Sequence[str], resources: Sequence[str], **conditions: Any) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        effect=iam.Effect.DENY, actions=list(actions), resources=list(resources), conditions=conditions or None
    )


def deny_unguarded_jobs(*, vpc: bool) -> list[iam.PolicyStatement]:
    """No job without a key for what it writes and, where the environment asks for it, outside of a VPC.

    Conditions of https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsagemaker.html. IAM
    takes a misspelt key without a word, and a deny by it then never or always holds: tests hold them to that list.
    """
    any_job = ["sagemaker:CreateTrainingJob"]
    found = [
        deny(any_job, ["*"], Null={"sagemaker:OutputKmsKey": "true"}),
        # Any: one type of a mixed list whose volume needs the key is enough.
        deny(
            any_job,
            ["*"],
            **{
                "Null": {"sagemaker:VolumeKmsKey": "true"},
                "ForAnyValue:StringNotLike": {"sagemaker:InstanceTypes": list(OWN_STORAGE)},
            },
        ),
        # A job that names no type has none that is not like these.
        deny(any_job, ["*"], Null={"sagemaker:VolumeKmsKey": "true", "sagemaker:InstanceTypes": "true"}),
    ]
    if vpc:
        keys = ("sagemaker:VpcSubnets", "sagemaker:VpcSecurityGroupIds")
        found += [deny(any_job, ["*"], Null={key: "true"}) for key in keys]
    return found
