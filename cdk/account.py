"""What an account has once, whatever environments are in it: GitHub's tokens, Access Analyzer, the trail of keys' use,
and the log group of training jobs, which SageMaker would make without an end and without a key.

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
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.access import ISSUER
from cdk.policies import arns
from cdk.retention import RETENTION
from cdk.roles import JOB_LOGS

STACK = "stepforge-account"


class Account(cdk.Stack):
    def __init__(self, scope: Construct, identifier: str = STACK, **options: Any) -> None:
        super().__init__(scope, identifier, stack_name=STACK, termination_protection=True, **options)
        iam.CfnOIDCProvider(self, "GitHub", url=f"https://{ISSUER}", client_id_list=["sts.amazonaws.com"])
        accessanalyzer.CfnAnalyzer(self, "Analyzer", type="ACCOUNT", analyzer_name="stepforge")
        key = kms.Key(
            self,
            "TrailKey",
            alias="alias/stepforge-account-trail",
            description="stepforge: the trail, and what jobs print",
            enable_key_rotation=True,
            removal_policy=cdk.RemovalPolicy.RETAIN,
        )
        self._trail(key)
        self._job_logs(key)

    def _job_logs(self, key: kms.Key) -> None:
        """What jobs print may be a user's records. The group is that of all environments, and is kept as long as the
        longest of them keeps its logs; CloudWatch Logs decrypts it for who may read it, so nobody gets the key."""
        (group,) = arns(self, "logs", f"log-group:{JOB_LOGS}")
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(f"logs.{self.region}.amazonaws.com")],
                actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey",
                         "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"],
                resources=["*"],
                conditions={"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": group}},
            )
        )  # fmt: skip
        logs.LogGroup(
            self,
            "JobLogs",
            log_group_name=JOB_LOGS,
            encryption_key=key,
            retention=RETENTION[max(RETENTION)],
            removal_policy=cdk.RemovalPolicy.RETAIN,
        )

    def _trail(self, key: kms.Key) -> None:
        """Management events, of which each use of a key is one. The first trail of an account costs nothing."""
        name = "stepforge"
        (arn,) = arns(self, "cloudtrail", f"trail/{name}")
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
