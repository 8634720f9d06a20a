"""Policy statements with exact resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3

GROUPS = "stepforge-*"
"""Model package groups, endpoints, models and configurations: contracts.pipelines holds `group` to this prefix."""


def allow(actions: Sequence[str], resources: Sequence[str], **conditions: Any) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions or None)


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


def grant_key_to_aws(key: kms.IKey) -> iam.PolicyStatement:
    """SageMaker encrypts volumes through grants that it makes in the caller's name."""
    return allow(["kms:CreateGrant", "kms:DescribeKey"], [key.key_arn], Bool={"kms:GrantIsForAWSResource": "true"})


def pass_role(role: iam.IRole) -> iam.PolicyStatement:
    return allow(["iam:PassRole"], [role.role_arn], StringEquals={"iam:PassedToService": "sagemaker.amazonaws.com"})
