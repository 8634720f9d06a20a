"""Who wrote over a job's outputs: a trail of the writes below `jobs/`, which an approval rests on.

The account's trail has management events alone. Here each write is an event in CloudWatch Logs, where one command
finds it, and in signed files beside the access logs, where nobody can take it back unseen. It costs by the write: 0.10
USD for 100,000, and as much for their logs. Not covered: reads, and other prefixes, of which the access logs tell.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.policies import arns
from cdk.retention import RETENTION
from cdk.settings import Settings

WATCHED = "jobs/"
FOLDER = "trail"
"""Of the bucket of access logs."""


class Writes(Construct):
    def __init__(
        self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, access_logs: s3.IBucket, key: kms.Key
    ) -> None:
        super().__init__(scope, "Writes")
        name = f"stepforge-{settings.name}-writes"
        (arn,) = arns(self, "cloudtrail", f"trail/{name}")
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudtrail.amazonaws.com")],
                actions=["kms:GenerateDataKey", "kms:DescribeKey"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceArn": arn}},
            )
        )
        group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/stepforge/{settings.name}/writes",
            retention=RETENTION[settings.log_retention_days],
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        trail = cloudtrail.Trail(
            self,
            "Trail",
            trail_name=name,
            bucket=access_logs,
            s3_key_prefix=FOLDER,
            encryption_key=key,
            send_to_cloud_watch_logs=True,
            cloud_watch_log_group=group,
            enable_file_validation=True,
            is_multi_region_trail=False,
            include_global_service_events=False,
            management_events=cloudtrail.ReadWriteType.NONE,
        )
        trail.add_s3_event_selector(
            [cloudtrail.S3EventSelector(bucket=bucket, object_prefix=WATCHED)],
            include_management_events=False,
            read_write_type=cloudtrail.ReadWriteType.WRITE_ONLY,
        )
