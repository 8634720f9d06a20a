"""What people may do: policies to attach to the roles that they sign in with, by IAM Identity Center say.

A viewer looks. A trainer has the viewer's policy and one that submits and asks; an approver the viewer's and one that
answers and approves, and writes no object. Denies are explicit where policies on one person must not add up.
"""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.functions import Functions
from cdk.policies import (
    allow,
    deny,
    deny_unguarded_jobs,
    groups,
    pass_role,
    read_objects,
    use_key,
    use_table,
    write_objects,
)
from cdk.roles import Roles
from cdk.serving import ask
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, Machine, parameter
from stepforge.contracts.work import WORK_TYPES

STARTED_BY_TRAINERS: tuple[Machine, ...] = ("train", "evaluate", "dataset", "approve", "finetune")
ASKING: tuple[Machine, ...] = ("approve", "finetune")
"""Their histories hold the tokens that answer them."""
_READ = ("jobs", "pipelines", "specs", "ledger", "prices", "raw", "checkpoints", "finetune")


class People(Construct):
    """`stepforge-{environment}-{viewer, trainer, approver}`: managed policies, that name nobody."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        functions: Functions,
        bucket: s3.IBucket,
        key: kms.IKey,
        roles: Roles,
        spend: dynamodb.ITable,
    ) -> None:
        super().__init__(scope, "People")
        self._spend = spend
        self._settings, self._functions, self._own = settings, functions, groups(settings.name)
        # Apart, because a policy has 6,144 characters at most.
        self.viewer = self._policy("Viewer", self._look(bucket, key))
        self.trainer = self._policy("Trainer", self._train(bucket, key, roles))
        self.approver = self._policy("Approver", self._approve(bucket, key))

    def _policy(self, name: str, statements: Sequence[iam.PolicyStatement]) -> iam.ManagedPolicy:
        return iam.ManagedPolicy(
            self,
            name,
            managed_policy_name=f"stepforge-{self._settings.name}-{name.lower()}",
            description=f"stepforge {self._settings.name}: what a {name.lower()} may do",
            statements=list(statements),
        )

    def _look(self, bucket: s3.IBucket, key: kms.IKey) -> list[iam.PolicyStatement]:
        arns = self._functions.arns
        machines = [self._functions.machine_arn(machine) for machine in MACHINES]
        told = [self._executions(machine) for machine in MACHINES if machine not in ASKING]
        sagemaker = [
            *self._jobs(),
            *arns("sagemaker", f"model-package/{self._own}/*", f"model-package-group/{self._own}",
                  f"endpoint/{self._own}", f"endpoint-config/{self._own}", f"model/{self._own}"),
        ]  # fmt: skip
        return [
            *read_objects(bucket, *_READ),
            use_key(key),
            allow(["states:ListExecutions", "states:DescribeStateMachine"], machines),
            allow(["states:DescribeExecution"], [self._executions(machine) for machine in MACHINES]),
            allow(["states:GetExecutionHistory"], told),
            allow(
                ["sagemaker:DescribeTrainingJob", "sagemaker:DescribeModelPackage", "sagemaker:DescribeEndpoint",
                 "sagemaker:DescribeModelPackageGroup", "sagemaker:ListModelPackages", "sagemaker:ListTags"],
                sagemaker,
            ),
            allow(["sagemaker:ListModelPackageGroups", "sagemaker:ListTrainingJobs"], ["*"]),
            *ask(self._settings, arns, bucket, key),
            allow(
                ["logs:GetLogEvents", "logs:FilterLogEvents", "logs:DescribeLogStreams"],
                arns("logs", "log-group:/aws/sagemaker/*", f"log-group:/stepforge/{self._settings.name}/*"),
            ),
            allow(
                ["ssm:GetParametersByPath", "ssm:GetParameter"],
                arns("ssm", f"parameter{parameter(self._settings.name, '')}*", f"parameter{self._root()}"),
            ),
        ]  # fmt: skip

    def _train(self, bucket: s3.IBucket, key: kms.IKey, roles: Roles) -> list[iam.PolicyStatement]:
        started = [self._functions.machine_arn(machine) for machine in STARTED_BY_TRAINERS]
        stopped = [self._executions(machine) for machine in (*STARTED_BY_TRAINERS, "run-job")]
        packages = self._functions.arns("sagemaker", f"model-package/{self._own}/*")
        return [
            write_objects(bucket, "pipelines", "specs", "raw", "prices", "finetune"),
            use_key(key, write=True),
            allow(["states:StartExecution"], started),
            allow(["states:StopExecution"], stopped),
            allow(["sagemaker:CreateTrainingJob", "sagemaker:StopTrainingJob", "sagemaker:AddTags"], self._jobs()),
            pass_role(roles.training),
            *deny_unguarded_jobs(vpc=self._settings.jobs_need_vpc),
            # Whoever trains neither approves nor promotes, with whatever other policy.
            deny(
                ["sagemaker:UpdateModelPackage", "sagemaker:CreateModelPackage", "sagemaker:DeleteModelPackage"],
                packages,
            ),
            deny(["states:SendTask*"], ["*"]),
            deny(["states:StartExecution"], [self._functions.machine_arn("promote")]),
            deny(["s3:GetObject", "s3:PutObject"], [bucket.arn_for_objects("approvals/*")]),
        ]

    def _approve(self, bucket: s3.IBucket, key: kms.IKey) -> list[iam.PolicyStatement]:
        packages = self._functions.arns("sagemaker", f"model-package/{self._own}/*")
        return [
            *read_objects(bucket, "approvals"),
            # The ledger of paid tunes holds what waits for a person, with its token.
            *use_table(self._spend, key, "GetItem", "Query", "PutItem", "UpdateItem", "ConditionCheckItem"),
            # IAM knows no resource for an answer: whose token it is decides.
            allow(["states:SendTaskSuccess", "states:SendTaskFailure"], ["*"]),
            allow(["sagemaker:UpdateModelPackage"], packages),
            allow(["states:StartExecution"], [self._functions.machine_arn("approve")]),
            # Who approves has not written it, with whatever other policy.
            deny(["s3:PutObject", "s3:DeleteObject"], [bucket.arn_for_objects("*")]),
            deny(["sagemaker:CreateTrainingJob", "sagemaker:CreateModelPackage"], ["*"]),
        ]

    def _jobs(self) -> list[str]:
        return self._functions.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))

    def _executions(self, machine: Machine) -> str:
        return self._functions.arns("states", f"execution:{self._functions.machine_name(machine)}:*")[0]

    def _root(self) -> str:
        return parameter(self._settings.name, "").rstrip("/")
