"""The data lake: one bucket. Specs, pipelines, jobs and checkpoints are the machines' own; `raw/`, `curated/`,
`model-ready/`, `evaluations/` and `logs/` are people's and datasets'.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.alerts import alarm
from cdk.settings import Settings

ACCESS_LOGS = "data"
"""Folder of the bucket of access logs."""
_RARE = s3.StorageClass.INFREQUENT_ACCESS


class Data(Construct):
    """`bucket`; `access_logs`: where requests to it are logged, None where they are not."""

    def __init__(self, scope: Construct, settings: Settings, *, key: kms.IKey) -> None:
        super().__init__(scope, "Data")
        removal = cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY
        self.access_logs = self._access_logs(removal) if settings.access_logs else None
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            bucket_name=settings.bucket,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            versioned=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            server_access_logs_bucket=self.access_logs,
            server_access_logs_prefix=f"{ACCESS_LOGS}/" if self.access_logs else None,
            removal_policy=removal,
            metrics=None if settings.local else [s3.BucketMetrics(id="requests")],
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="unfinished-and-replaced",
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                    noncurrent_version_expiration=cdk.Duration.days(settings.replaced_days),
                ),
                s3.LifecycleRule(
                    id="checkpoints", prefix="checkpoints/", expiration=cdk.Duration.days(settings.checkpoint_days)
                ),
                *_of_inference(settings),
                *([] if settings.local else _rules()),
            ],
        )
        if not settings.local:
            # CDK's own option deploys a custom resource.
            plain = self.bucket.node.default_child
            assert isinstance(plain, s3.CfnBucket)
            plain.add_property_override("NotificationConfiguration.EventBridgeConfiguration.EventBridgeEnabled", True)
            self._alarms(settings)

    def _access_logs(self, removal: cdk.RemovalPolicy) -> s3.Bucket:
        # Log delivery cannot write with a customer's key.
        return s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            removal_policy=removal,
            lifecycle_rules=[s3.LifecycleRule(expiration=cdk.Duration.days(365))],
        )

    def _alarms(self, settings: Settings) -> None:
        """A few refused requests are people's; a service that may not read shows hundreds."""
        for name, threshold in (("4xxErrors", 100), ("5xxErrors", 5)):
            alarm(
                self,
                name.title(),
                name=f"stepforge-{settings.name}-bucket-{name[:3]}",
                says=f"{name} of the data bucket",
                runbook="The bucket refuses requests",
                metric=cloudwatch.Metric(
                    namespace="AWS/S3",
                    metric_name=name,
                    dimensions_map={"BucketName": self.bucket.bucket_name, "FilterId": "requests"},
                    statistic="Sum",
                    period=cdk.Duration.minutes(5),
                ),
                threshold=threshold,
                periods=2,
            )


def _of_inference(settings: Settings) -> list[s3.LifecycleRule]:
    """Requests hold what people wrote."""
    if settings.serve_mode != "async":
        return []
    days = cdk.Duration.days(settings.asynchronous.days)
    # The bucket keeps versions: what has expired is a version, and would stay as long as others do.
    day = cdk.Duration.days(1)
    return [s3.LifecycleRule(id="inference", prefix="inference/", expiration=days, noncurrent_version_expiration=day)]


def _rules() -> list[s3.LifecycleRule]:
    """What training reads again stays at hand; what is kept as evidence gets cheaper; logs go."""
    rare = [s3.Transition(storage_class=_RARE, transition_after=cdk.Duration.days(90))]
    return [
        s3.LifecycleRule(id="raw", prefix="raw/", transitions=rare),
        s3.LifecycleRule(id="evaluations", prefix="evaluations/", transitions=rare),
        *(
            s3.LifecycleRule(
                id=name,
                prefix=f"{name}/",
                transitions=[
                    s3.Transition(
                        storage_class=s3.StorageClass.INTELLIGENT_TIERING, transition_after=cdk.Duration.days(30)
                    )
                ],
            )
            for name in ("curated", "model-ready")
        ),
        s3.LifecycleRule(id="logs", prefix="logs/", expiration=cdk.Duration.days(365)),
    ]
