"""Findings of cdk-nag's AwsSolutions that stand as they are, each with its reason. Anything else stops the synth."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import IConstruct

from cdk.roles import NETWORK
from cdk.settings import Settings
from stepforge.contracts.jobs import WORK_TYPES

_OWN_NAMES = "names made by stepforge: one for each job, model or endpoint, none known before it exists"


def acknowledge(stack: cdk.Stack, settings: Settings) -> None:
    """Wildcards are acknowledged one by one, so that a new one is seen. `*` only below the constructs that need it."""
    account = settings.account or "<AWS::AccountId>"
    bucket = stack.get_logical_id(stack.node.find_child("Data").node.find_child("Bucket").node.default_child)  # type: ignore[arg-type]

    def arn(service: str, resource: str) -> str:
        return f"arn:aws:{service}:{settings.region}:{account}:{resource}"

    wildcards = {
        **{f"<{bucket}.Arn>/{prefix}/*": "objects are named by their digest" for prefix in _PREFIXES},
        f"<{bucket}.Arn>/ledger/*": "an entry is named by the job that it is for",
        f"<{bucket}.Arn>/prices/*": "read only: the table of prices",
        **{arn("sagemaker", f"training-job/{kind}-*"): _OWN_NAMES for kind in WORK_TYPES},
        **{arn("sagemaker", f"{what}/stepforge-*"): _OWN_NAMES for what in _SERVING},
        arn("sagemaker", "model-package/stepforge-*/*"): _OWN_NAMES,
        f"<{bucket}.Arn>/finetune/*": "requests, data and evaluations are named by their digest",
        arn("secretsmanager", f"secret:stepforge/{settings.name}/finetune/*"): "keys of providers, named in a plan",
        arn("states", f"execution:stepforge-{settings.name}-run-job:*"): _OWN_NAMES,
        arn("states", f"execution:stepforge-{settings.name}-promote:*"): _OWN_NAMES,
        arn("cloudwatch", "alarm:stepforge-*"): "an endpoint's alarm is named by its endpoint",
        arn("ecr", "repository/stepforge-*"): "the images of jobs and endpoints; what runs is pinned by digest",
        arn("logs", "log-group:/aws/sagemaker/TrainingJobs*"): "SageMaker makes the streams, one a host",
        arn("logs", "log-group:/aws/sagemaker/Endpoints*"): "SageMaker makes a group for each endpoint",
    }
    if settings.jobs_in_vpc:
        wildcards |= {arn("ec2", f"{what}/*"): "SageMaker makes the interfaces of a job" for what in NETWORK}
    for wildcard, reason in wildcards.items():
        _acknowledge(stack, f"IAM5[Resource::{wildcard}]", reason)
    for name, reason in _EVERYWHERE.items():
        _acknowledge(stack.node.find_child(name), "IAM5[Resource::*]", reason)
    _acknowledge(stack, "L1", "Python 3.11 is the oldest that the project supports, and what its layer is built for")
    data, promotion = stack.node.find_child("Data"), stack.node.find_child("Promotion")
    _acknowledge(promotion.node.find_child("DeadLetters"), "SQS3", "it is the dead-letter queue of the rules' targets")
    if settings.access_logs:
        _acknowledge(data.node.find_child("AccessLogs"), "S1", "it holds the access logs; logging itself would not end")
    else:
        _acknowledge(data.node.find_child("Bucket"), "S1", "one user on one machine; the server's log has each request")


def _acknowledge(scope: IConstruct, rule: str, reason: str) -> None:
    cdk.Validations.of(scope).acknowledge(cdk.Acknowledgment(id=f"AwsSolutions::AwsSolutions-{rule}", reason=reason))


_PREFIXES = ("specs", "jobs", "raw", "checkpoints", "pipelines")
_SERVING = ("model", "endpoint-config", "endpoint", "model-package-group")
_EVERYWHERE = {
    "Roles": "ecr:GetAuthorizationToken and ec2:Describe take no resource, and PutMetricData only a namespace, "
    "which is given",
    "Functions": "X-Ray's actions take no resource; neither does ListModelPackageGroups",
    "Machines": "X-Ray's actions and the delivery of logs take no resource",
}
