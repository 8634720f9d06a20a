"""Findings of cdk-nag's AwsSolutions that stand as they are, each with its reason. Anything else stops the synth."""

from __future__ import annotations

from typing import get_args

import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
from constructs import IConstruct

from cdk.code import PYTHON
from cdk.data import ACCESS_LOGS
from cdk.policies import groups, images
from cdk.roles import JOB_LOGS, NETWORK
from cdk.serving import logs_at
from cdk.settings import Settings
from stepforge.contracts.manifests import ArtifactKind
from stepforge.contracts.names import MACHINES, TUNE_PREFIX, Keys, parameter
from stepforge.contracts.work import WORK_TYPES

_OWN_NAMES = "names made by stepforge: one for each job, model or endpoint, none known before it exists"


def acknowledge(stack: cdk.Stack, settings: Settings) -> None:
    """Wildcards are acknowledged one by one, so that a new one is seen. `*` only below the constructs that need it."""
    for wildcard, reason in _wildcards(stack, settings).items():
        _acknowledge(stack, f"IAM5[Resource::{wildcard}]", reason)
    for child in stack.node.children:
        for rule, reason in _BELOW.get(child.node.id, {}).items():
            _acknowledge(child, rule, reason)
    _acknowledge(stack, "L1", f"Python {PYTHON} is the oldest that the project supports, and what layers are built for")
    for part, queue in (("Promotion", "DeadLetters"), ("Images", "DeadLetters")):
        for found in _child(stack, part, queue):
            _acknowledge(found, "SQS3", "it is the dead-letter queue of the rules' targets")
    if not settings.access_logs:
        for found in _child(stack, "Data", "Bucket"):
            _acknowledge(found, "S1", "one user on one machine; the server's log has each request")
    for found in _child(stack, "Data", "AccessLogs"):
        _acknowledge(found, "S1", "it holds the access logs; logging itself would not end")


def acknowledge_account(stack: cdk.Stack) -> None:
    _acknowledge(stack, "S1", "the trail's own bucket: who reads it is in the trail")


def _wildcards(stack: cdk.Stack, settings: Settings) -> dict[str, str]:
    account = settings.account or "<AWS::AccountId>"

    def arn(service: str, resource: str) -> str:
        return f"arn:{stack.partition}:{service}:{settings.region}:{account}:{resource}"

    bucket = _bucket(stack, settings)
    own_groups = groups(settings.name)
    own = {
        **{f"{bucket}/{prefix}/*": "objects are named by their digest" for prefix in _PREFIXES},
        **{
            f"{bucket}/{prefix}/{kind}-*/*": "what a job writes is named by the job"
            for prefix in _OF_JOBS
            for kind in WORK_TYPES
        },
        **{f"{bucket}/raw/{kind}/*": "what people bring is named by its digest" for kind in get_args(ArtifactKind)},
        f"{bucket}/jobs/*/output/model/manifest.json": "a manifest that goes back where it was",
        f"{bucket}/ledger/*": "an entry is named by the job that it is for",
        f"{bucket}/approvals/*": "a question is named by its execution",
        **{f"{bucket}/finetune/{what}/*": "named by its digest" for what in ("requests", "evaluations")},
        f"{bucket}/prices/*": "read only: the table of prices",
        f"{bucket}/*": "a deny: an approver writes no object",
        **{arn("sagemaker", f"training-job/{kind}-*"): _OWN_NAMES for kind in WORK_TYPES},
        **{arn("sagemaker", f"{what}/{own_groups}"): _OWN_NAMES for what in _SERVING},
        arn("sagemaker", f"model-package/{own_groups}/*"): _OWN_NAMES,
        arn("sagemaker", f"endpoint/{own_groups}-candidate"): _OWN_NAMES,
        arn("sagemaker", f"endpoint/{TUNE_PREFIX}*"): "endpoints of paid tunes, named by their launch",
        f"{bucket}/finetune/*": "requests, data and evaluations are named by their digest",
        arn("secretsmanager", f"secret:stepforge/{settings.name}/finetune/*"): "keys of providers, named in a plan",
        arn("states", f"execution:stepforge-{settings.name}-run-job:*"): _OWN_NAMES,
        arn("states", f"execution:stepforge-{settings.name}-promote:*"): _OWN_NAMES,
        arn("states", f"execution:stepforge-{settings.name}-dataset/*"): "Step Functions names a Map's executions",
        arn("cloudwatch", f"alarm:{own_groups}"): "an endpoint's alarm is named by its endpoint",
        arn("ecr", images(settings.name)): "the images of jobs and endpoints; what runs is pinned by digest",
        arn("logs", f"log-group:{JOB_LOGS}*"): "SageMaker makes the streams, one a host",
        arn("logs", "log-group:/aws/sagemaker/*"): "people read the logs of jobs and endpoints",
        **{arn("logs", f"log-group:{at}/{own_groups}"): "what an operator reads" for at in logs_at(settings)},
        arn("cloudwatch", f"alarm:stepforge-{settings.name}-*"): "all alarms of the environment",
        **{
            arn("states", f"{what}:stepforge-{settings.name}-*"): "an operator looks at all machines of the environment"
            for what in ("stateMachine", "execution")
        },
        arn("secretsmanager", f"secret:stepforge/{settings.name}/*"): "which versions there are, and not their values",
        **{f"{bucket}/jobs/{kind}-*": "outputs that are brought back are named by their job" for kind in WORK_TYPES},
        arn("logs", f"log-group:/stepforge/{settings.name}/*"): "people read the logs of the handlers",
        arn("ssm", f"parameter/stepforge/{settings.name}/*"): "what this environment publishes of itself",
        **{arn("states", f"execution:stepforge-{settings.name}-{machine}:*"): _OWN_NAMES for machine in MACHINES},
        **{
            arn("logs", f"log-group:{stem}*"): "SageMaker makes a group for each endpoint" for stem in logs_at(settings)
        },
    }
    if settings.serve_mode == "async":
        own |= {
            f"{bucket}/{Keys.inference(what)}/*": "a request and its answer are named by its digest"
            for what in ("requests", "answers", "failures")
        }
    if settings.serve_mode == "components":
        own |= {arn("sagemaker", f"inference-component/{own_groups}{tail}"): _OWN_NAMES for tail in ("", "-candidate")}
    if settings.local:
        return own
    own |= {
        f"{bucket}/mlflow/*": "MLflow's artifacts",
        **{
            arn("ssm", f"parameter{parameter(settings.name, what)}/*"): "one parameter for each image and type of job"
            for what in ("images", "code")
        },
        arn("ssm", f"parameter/stepforge-keys/{settings.name}/*"): "one parameter for each provider, written only",
    }
    if settings.access_logs:
        own[f"{_bucket(stack, settings, 'AccessLogs')}/{ACCESS_LOGS}/*"] = "an operator reads all access logs"
    if settings.tuning_role_arn is not None:
        own |= {
            **{arn("bedrock", f"{what}/*"): "Bedrock names what it makes" for what in _AT_BEDROCK},
            f"arn:aws:bedrock:{settings.region}::foundation-model/*": "a plan names its base model",
            f"arn:aws:sagemaker:{settings.region}:aws:hub-content/SageMakerPublicHub/Model/*": "the same",
            arn("sagemaker", "model-package/*"): "read only: the group of tuned models is the plan's",
            **{
                arn("sagemaker", f"{what}/{TUNE_PREFIX}*"): "named by a launch's key"
                for what in ("training-job", "model", "endpoint-config", "endpoint")
            },
        }
        for found in _child(stack, "Finetune", "TuningRole"):
            for grade in _child(stack, "Functions", "FinetuneGrade"):
                name = stack.get_logical_id(grade.node.default_child)  # type: ignore[arg-type]
                _acknowledge(found, f"IAM5[Resource::<{name}.Arn>:*]", "CDK grants a function with its versions")
    for domain in _child(stack, "Studio", "Domain"):
        assert isinstance(domain, cdk.CfnElement)
        identifier = stack.get_logical_id(domain)
        own |= {
            arn("sagemaker", f"{what}/<{identifier}.DomainId>/*"): "spaces and apps of one's own, by their owner's ARN"
            for what in ("space", "app")
        }
    if settings.jobs_in_vpc:
        own |= {arn("ec2", f"{what}/*"): "SageMaker makes the interfaces of a job" for what in NETWORK}
    return own


def _bucket(stack: cdk.Stack, settings: Settings, name: str = "Bucket") -> str:
    """The bucket's ARN as cdk-nag prints it: what this stack refers to, or imports from the stack that has it."""
    (bucket,) = _child(stack, "Data", name) or _child(_data(stack, settings), "Data", name)
    owner = cdk.Stack.of(bucket)
    assert isinstance(bucket, s3.Bucket)
    if owner is stack:
        return f"<{stack.resolve(bucket.bucket_arn)['Fn::GetAtt'][0]}.Arn>"
    return str(stack.resolve(owner.export_value(bucket.bucket_arn))["Fn::ImportValue"])


def _data(stack: cdk.Stack, settings: Settings) -> cdk.Stack:
    found = stack.node.root.node.find_child(f"stepforge-{settings.name}-data")
    assert isinstance(found, cdk.Stack)
    return found


def _child(scope: IConstruct, *path: str) -> list[IConstruct]:
    for name in path:
        found = scope.node.try_find_child(name)
        if found is None:
            return []
        scope = found
    return [scope]


def _acknowledge(scope: IConstruct, rule: str, reason: str) -> None:
    cdk.Validations.of(scope).acknowledge(cdk.Acknowledgment(id=f"AwsSolutions::AwsSolutions-{rule}", reason=reason))


_PREFIXES = ("specs", "jobs", "raw", "checkpoints", "pipelines", "curated", "model-ready", "evaluations")
_OF_JOBS = ("jobs", "checkpoints")
_SERVING = ("model", "endpoint-config", "endpoint", "model-package-group")
_AT_BEDROCK = ("model-customization-job", "custom-model", "custom-model-deployment")
_ANY = "IAM5[Resource::*]"
_BELOW: dict[str, dict[str, str]] = {
    "Roles": {
        _ANY: "ecr:GetAuthorizationToken and ec2:Describe take no resource, and PutMetricData only a namespace, "
        "which is given"
    },
    "Functions": {
        _ANY: "X-Ray's actions take no resource; neither do ListModelPackageGroups, ListEndpoints and OptimizePrompt, "
        "nor those on network interfaces of a function"
    },
    "Machines": {_ANY: "X-Ray's actions and the delivery of logs take no resource; denies are of every job"},
    "People": {
        _ANY: "lists and answers to task tokens take no resource; denies are of everything",
        "IAM5[Action::states:SendTask*]": "a deny of all three of them",
    },
    "Studio": {_ANY: "lists of apps and spaces take no resource"},
    "Guardrails": {_ANY: "denies are of every job"},
    "Secrets": {_ANY: "X-Ray's actions take no resource; neither do those on network interfaces of a function"},
    "Images": {
        "CB3": "building images needs Docker; the project builds our own Dockerfiles and nothing else",
        _ANY: "ecr:GetAuthorizationToken takes no resource",
    },
}
