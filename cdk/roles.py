"""What a training job and an endpoint may do. Both run without network but for what SageMaker does in their name."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.policies import allow, grant_key_to_aws, read_objects, use_key, write_objects
from cdk.serving import answer
from cdk.settings import Settings

NETWORK = ("network-interface", "security-group", "subnet", "vpc")
# https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html, "Permissions for CreateTrainingJob" in a VPC
_LOOK_AT_NETWORK = [
    f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
]
_MAKE_INTERFACES = [f"ec2:{verb}NetworkInterface{what}" for verb in ("Create", "Delete") for what in ("", "Permission")]


class Roles(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, key: kms.IKey) -> None:
        super().__init__(scope, "Roles")
        self.training = self._role("Training", log_group="TrainingJobs")
        for statement in (
            *read_objects(bucket, "specs", "jobs", "raw", "checkpoints"),
            write_objects(bucket, "jobs", "checkpoints"),
            # Checkpoints are kept in step with /opt/ml/checkpoints: what a job deletes there is deleted here.
            allow(["s3:DeleteObject"], [bucket.arn_for_objects("checkpoints/*")]),
            use_key(key, write=True),
            grant_key_to_aws(key),
        ):
            self.training.add_to_policy(statement)
        if settings.jobs_in_vpc:
            self.training.add_to_policy(allow(_LOOK_AT_NETWORK, ["*"]))
            stack = cdk.Stack.of(self)
            stem = f"arn:aws:ec2:{stack.region}:{stack.account}:"
            self.training.add_to_policy(allow(_MAKE_INTERFACES, [f"{stem}{what}/*" for what in NETWORK]))
        self.serving = self._role("Serving", log_group="Endpoints")
        for statement in (*read_objects(bucket, "jobs"), use_key(key), grant_key_to_aws(key)):
            self.serving.add_to_policy(statement)
        for statement in answer(settings, bucket, key):
            self.serving.add_to_policy(statement)

    def _role(self, name: str, *, log_group: str) -> iam.Role:
        role = iam.Role(self, name, assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        stack = cdk.Stack.of(self)
        logs = f"arn:aws:logs:{stack.region}:{stack.account}:log-group:/aws/sagemaker/{log_group}*"
        repositories = f"arn:aws:ecr:{stack.region}:{stack.account}:repository/stepforge-*"
        role.add_to_policy(
            allow(
                ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"], [logs]
            )
        )
        role.add_to_policy(allow(["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], [repositories]))
        role.add_to_policy(allow(["ecr:GetAuthorizationToken"], ["*"]))
        role.add_to_policy(
            allow(
                ["cloudwatch:PutMetricData"],
                ["*"],
                StringLike={"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]},
            )
        )
        return role
