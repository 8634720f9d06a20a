"""What an account has once, whatever environments are in it: GitHub's tokens, Access Analyzer, the trail of keys' use.

Every environment brings this stack under one name and with one content, so that the second deployment of it changes
nothing. It outlives environments: it has to be deleted by hand.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_accessanalyzer as accessanalyzer
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.access import ISSUER
from cdk.policies import arns

STACK = "stepforge-account"


class Account(cdk.Stack):
    def __init__(self, scope: Construct, identifier: str = STACK, **options: Any) -> None:
        super().__init__(scope, identifier, stack_name=STACK, termination_protection=True, **options)
        iam.CfnOIDCProvider(self, "GitHub", url=f"https://{ISSUER}", client_id_list=["sts.amazonaws.com"])
        accessanalyzer.CfnAnalyzer(self, "Analyzer", type="ACCOUNT", analyzer_name="stepforge")
        self._trail()

    def _trail(self) -> None:
        """Management events, of which each use of a key is one. The first trail of an account costs nothing."""
        name = "stepforge"
        (arn,) = arns(self, "cloudtrail", f"trail/{name}")
        key = kms.Key(
            self,
            "TrailKey",
            alias="alias/stepforge-account-trail",
            description="stepforge: the trail",
            enable_key_rotation=True,
            removal_policy=cdk.RemovalPolicy.RETAIN,
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudtrail.amazonaws.com")],
                actions=["kms:GenerateDataKey*", "kms:DescribeKey"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceArn": arn}},
            )
        )
        bucket = s3.Bucket(
            self,
            "Trail",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            removal_policy=cdk.RemovalPolicy.RETAIN,
            lifecycle_rules=[s3.LifecycleRule(expiration=cdk.Duration.days(400))],
        )
        cloudtrail.Trail(
            self,
            "Events",
            trail_name=name,
            bucket=bucket,
            encryption_key=key,
            is_multi_region_trail=True,
            include_global_service_events=True,
            enable_file_validation=True,
        )
