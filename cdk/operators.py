"""What an operator may do: the steps of docs/runbooks.md that are nobody else's, on an environment's own resources.

They take what serves out of service, read and empty dead-letter queues, stop a promotion, start a build, read logs and
access logs, look at dashboard and alarms, and bring back what was written over below `jobs/`: by a copy of what lies
there, never with contents of their own. They read no records: of the outputs of jobs those of training and evaluation.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from cdk.data import ACCESS_LOGS
from cdk.functions import Functions
from cdk.images import project_name
from cdk.occasions import queues
from cdk.policies import allow, deny, groups, use_key
from cdk.serving import list_components, logs_at, look_at_components, serves_at
from stepforge.contracts.names import parameter
from stepforge.contracts.work import TRAINING, WorkType

RESTORED: tuple[WorkType, ...] = (*TRAINING, "evaluate")
"""Types of job whose outputs they bring back: what an approval rests on. A dataset's are records."""


def operate(functions: Functions, *, access_logs: s3.IBucket | None) -> list[iam.PolicyStatement]:
    settings, bucket = functions.settings, functions.bucket
    here = functions.arns
    own, stem = groups(settings.name), f"stepforge-{settings.name}"
    outputs = [bucket.arn_for_objects(f"jobs/{work}-*") for work in RESTORED]
    deletes = {"endpoint": "DeleteEndpoint", "inference-component": "DeleteInferenceComponent"}
    queue_arns = here("sqs", *queues(settings.name))
    builds = here("codebuild", f"project/{project_name(settings.name)}")
    readable = [f"/stepforge/{settings.name}/*", *(f"{at}/{own}" for at in logs_at(settings))]
    folder = parameter(settings.name, "").rstrip("/")
    found = [
        # What serves, and its versions
        *(allow([f"sagemaker:{deletes[kind]}"], here("sagemaker", f"{kind}/{own}")) for kind in serves_at(settings)),
        allow(
            ["sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModelPackage",
             "sagemaker:DescribeModelPackageGroup", "sagemaker:ListModelPackages", "sagemaker:ListTags"],
            here("sagemaker", f"endpoint/{own}", f"endpoint-config/{own}", f"model-package/{own}/*",
                 f"model-package-group/{own}"),
        ),
        allow(["sagemaker:ListEndpoints", "sagemaker:ListModelPackageGroups"], ["*"]),
        *look_at_components(settings, here),
        *list_components(settings),
        allow(["ssm:GetParametersByPath", "ssm:GetParameter"],
              here("ssm", f"parameter{folder}", f"parameter{folder}/*")),
        # Executions: what they do is told by their state, and histories of questions hold tokens.
        allow(["states:ListExecutions"], here("states", f"stateMachine:{stem}-*")),
        allow(["states:DescribeExecution"], here("states", f"execution:{stem}-*")),
        allow(["states:GetExecutionHistory", "states:StopExecution"],
              here("states", f"execution:{functions.machine_name('promote')}:*")),
        # Events that were lost
        allow(["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:PurgeQueue"], queue_arns),
        # Builds of the images
        allow(["codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds",
               "codebuild:ListBuildsForProject"], builds),
        # Keys of providers: which versions there are, and not what is in them.
        allow(["secretsmanager:ListSecretVersionIds", "secretsmanager:DescribeSecret"],
              here("secretsmanager", f"secret:stepforge/{settings.name}/*")),
        # Logs, alarms and the dashboard
        allow(
            ["logs:GetLogEvents", "logs:FilterLogEvents", "logs:DescribeLogStreams"],
            here("logs", *(f"log-group:{name}" for name in readable)),
        ),
        allow(["cloudwatch:DescribeAlarms", "cloudwatch:DescribeAlarmHistory"], here("cloudwatch", f"alarm:{stem}-*")),
        allow(["cloudwatch:GetDashboard"], [_dashboard(functions)]),
        # IAM knows no resource for a metric.
        allow(["cloudwatch:GetMetricData", "cloudwatch:ListMetrics"], ["*"]),
        # Outputs that were written over
        allow(["s3:ListBucketVersions"], [bucket.bucket_arn],
              StringLike={"s3:prefix": [f"jobs/{work}-*" for work in RESTORED]}),
        allow(["s3:GetObject", "s3:GetObjectVersion"], outputs),
        allow(["s3:PutObject"], outputs, StringLike={
            "s3:x-amz-copy-source": [f"{slash}{bucket.bucket_name}/jobs/*" for slash in ("", "/")]}),
        use_key(functions.key, write=True),
        # Who operates neither trains, approves, promotes nor learns a key, with whatever other policy.
        deny(
            ["sagemaker:CreateTrainingJob", "sagemaker:CreateModelPackage", "sagemaker:UpdateModelPackage",
             "sagemaker:DeleteModelPackage", "states:StartExecution", "states:SendTask*",
             "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue",
             "secretsmanager:UpdateSecret", "secretsmanager:UpdateSecretVersionStage"],
            ["*"],
        ),
    ]  # fmt: skip
    if access_logs is not None:
        found += [
            allow(["s3:GetObject"], [access_logs.arn_for_objects(f"{ACCESS_LOGS}/*")]),
            allow(["s3:ListBucket"], [access_logs.bucket_arn], StringLike={"s3:prefix": [f"{ACCESS_LOGS}/*"]}),
        ]
    return found


def _dashboard(functions: Functions) -> str:
    """Dashboards are in no region."""
    stack = cdk.Stack.of(functions)
    return f"arn:{stack.partition}:cloudwatch::{stack.account}:dashboard/stepforge-{functions.settings.name}"
