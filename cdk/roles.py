"""What jobs and endpoints may do, a role for each kind. They run without network but for what SageMaker does for them.

A job's outputs lie below its name, and its name begins with its type: so a kind of job reads what those before it in a
run have made, writes what is its own, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.policies import allow, arns, grant_key_to_aws, images, read_objects, use_key, write_objects
from cdk.serving import answer, logs_at
from cdk.settings import Settings
from stepforge.contracts.manifests import ArtifactKind
from stepforge.contracts.work import TRAINING, WorkType

JobKind = Literal["dataset", "gate", "training", "evaluate"]
JOB_LOGS = "/aws/sagemaker/TrainingJobs"
"""The log group of all training jobs of an account and region, whoever started them."""
NETWORK = ("network-interface", "security-group", "subnet", "vpc")
# https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html, "Permissions for CreateTrainingJob" in a VPC
_LOOK_AT_NETWORK = [
    f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
]
_MAKE_INTERFACES = [f"ec2:{verb}NetworkInterface{what}" for verb in ("Create", "Delete") for what in ("", "Permission")]


@dataclass(frozen=True)
class Reads:
    """What the jobs of a kind read beside their specs: the channels of stepforge.contracts.jobs.JobSpec."""

    types: tuple[WorkType, ...]
    """The types of job that the kind is."""
    uploads: tuple[ArtifactKind, ...]
    outputs: tuple[WorkType, ...] = ()
    """Types of job whose outputs are read."""


JOBS: dict[JobKind, Reads] = {
    "dataset": Reads(types=("dataset",), uploads=("records", "plugin")),
    "gate": Reads(types=("gate",), uploads=("dataset", "plugin"), outputs=("dataset",)),
    "training": Reads(types=TRAINING, uploads=("dataset", "model", "plugin"), outputs=("dataset", "gate", *TRAINING)),
    "evaluate": Reads(types=("evaluate",), uploads=("dataset", "model", "plugin"), outputs=("dataset", *TRAINING)),
}


class Roles(Construct):
    """`jobs[kind]` is the role of a kind of job, `of(type)` that of a type; `serving` is that of endpoints."""

    def __init__(self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, key: kms.IKey) -> None:
        super().__init__(scope, "Roles")
        self._settings, self._bucket, self._key = settings, bucket, key
        self.jobs = {kind: self._job_role(kind, reads) for kind, reads in JOBS.items()}
        self.serving = self._role("Serving", *logs_at(settings))
        for statement in (*read_objects(bucket, *_below("jobs", TRAINING)), use_key(key), *grant_key_to_aws(key)):
            self.serving.add_to_policy(statement)
        for statement in answer(settings, bucket, key):
            self.serving.add_to_policy(statement)

    def of(self, work: WorkType) -> iam.Role:
        return next(self.jobs[kind] for kind, reads in JOBS.items() if work in reads.types)

    def _job_role(self, kind: JobKind, reads: Reads) -> iam.Role:
        role = self._role(kind.title(), JOB_LOGS)
        checkpoints = _below("checkpoints", reads.types)
        inputs = ["specs", *(f"raw/{upload}" for upload in reads.uploads), *_below("jobs", reads.outputs)]
        for statement in (
            *read_objects(self._bucket, *inputs, *checkpoints),
            write_objects(self._bucket, *_below("jobs", reads.types), *checkpoints),
            # Checkpoints are kept in step with /opt/ml/checkpoints: what a job deletes there is deleted here.
            allow(["s3:DeleteObject"], [self._bucket.arn_for_objects(f"{prefix}/*") for prefix in checkpoints]),
            use_key(self._key, write=True),
            *grant_key_to_aws(self._key),
        ):
            role.add_to_policy(statement)
        if self._settings.jobs_in_vpc:
            role.add_to_policy(allow(_LOOK_AT_NETWORK, ["*"]))
            role.add_to_policy(allow(_MAKE_INTERFACES, arns(self, "ec2", *(f"{what}/*" for what in NETWORK))))
        return role

    def _role(self, name: str, *log_groups: str) -> iam.Role:
        role = iam.Role(self, name, assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        for statement in (
            allow(
                ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                arns(self, "logs", *(f"log-group:{name}*" for name in log_groups)),
            ),
            allow(
                ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                arns(self, "ecr", images(self._settings.name)),
            ),
            allow(["ecr:GetAuthorizationToken"], ["*"]),
            allow(
                ["cloudwatch:PutMetricData"],
                ["*"],
                StringLike={"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]},
            ),
        ):
            role.add_to_policy(statement)
        return role


def _below(folder: str, types: tuple[WorkType, ...]) -> list[str]:
    """Where jobs of these types have what is theirs."""
    return [f"{folder}/{work}-*" for work in types]
