"""What people may do: policies to attach to the roles that they sign in with, by IAM Identity Center say.

A viewer looks. A trainer, an approver and a housekeeper have the viewer's policy and one of their own: a trainer
submits and asks; an approver answers and approves, and writes no object; a housekeeper removes what nobody needs
(`stepforge gc --apply`). An operator does what the runbooks ask for (cdk/operators.py) and has no other policy, because
the viewer's reads data. Denies are explicit where policies on one person must not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk.functions import Functions
from cdk.guardrails import guardrails
from cdk.operators import operate
from cdk.policies import (
    DECIDES,
    allow,
    arns,
    deny,
    deny_unguarded_jobs,
    groups,
    pass_roles,
    read_objects,
    start,
    use_key,
    use_table,
    write_objects,
)
from cdk.serving import ask, list_components, look_at_components
from stepforge.contracts.names import ENVIRONMENT_TAG, MACHINES, Machine, parameter
from stepforge.contracts.work import WORK_TYPES

Person = Literal["viewer", "trainer", "approver", "housekeeper", "operator"]
STARTED_BY_TRAINERS: tuple[Machine, ...] = ("train", "evaluate", "dataset", "approve", "finetune")
ASKING: tuple[Machine, ...] = ("approve", "finetune")
"""Their histories hold the tokens that answer them."""
_LAKE = ("curated", "model-ready", "evaluations")
_READ = ("jobs", "pipelines", "specs", "ledger", "prices", "raw", "checkpoints", "finetune", *_LAKE)
_REMOVED = ("checkpoints", "jobs", "specs", "pipelines", "raw")
"""Prefixes that stepforge.housekeeping looks through."""
_LOCK = "housekeeping"
_WAITING = "waiting"
"""Partition key of the spend ledger's items that hold tokens; the others hold none."""
_TOLD = ("launch", "lines#*", "spent#*", "asked")


class People(Construct):
    """`policies`: person to `stepforge-{environment}-{person}`, a managed policy that names nobody."""

    def __init__(
        self,
        scope: Construct,
        *,
        functions: Functions,
        spend: dynamodb.ITable,
        access_logs: s3.IBucket | None = None,
    ) -> None:
        super().__init__(scope, "People")
        self._functions, self._settings, self._spend = functions, functions.settings, spend
        self._bucket, self._key = functions.bucket, functions.key
        self._own = groups(self._settings.name)
        # Apart, because a policy has 6,144 characters at most.
        statements: dict[Person, list[iam.PolicyStatement]] = {
            "viewer": self._look(),
            "trainer": self._train(),
            "approver": self._approve(),
            "housekeeper": self._tidy(),
            "operator": operate(functions, access_logs=access_logs),
        }
        self.policies = {person: self._policy(person, its) for person, its in statements.items()}

    def of(self, person: Person) -> list[iam.IManagedPolicy]:
        """What a person has: the viewer's policy, and one of their own; an operator that one alone."""
        names = (person,) if person == "operator" else dict.fromkeys(("viewer", person))
        return [self.policies[name] for name in names]

    def _policy(self, person: Person, statements: Sequence[iam.PolicyStatement]) -> iam.ManagedPolicy:
        return iam.ManagedPolicy(
            self,
            person.title(),
            managed_policy_name=f"stepforge-{self._settings.name}-{person}",
            description=f"stepforge {self._settings.name}: what a {person} may do",
            statements=list(statements),
        )

    def _look(self) -> list[iam.PolicyStatement]:
        machines = [self._functions.machine_arn(machine) for machine in MACHINES]
        told = [self._executions(machine) for machine in MACHINES if machine not in ASKING]
        return [
            *read_objects(self._bucket, *_READ),
            use_key(self._key),
            allow(["states:ListExecutions", "states:DescribeStateMachine"], machines),
            allow(["states:DescribeExecution"], [self._executions(machine) for machine in MACHINES]),
            allow(["states:GetExecutionHistory"], told),
            allow(
                ["sagemaker:DescribeTrainingJob", "sagemaker:DescribeModelPackage", "sagemaker:DescribeEndpoint",
                 "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModel", "sagemaker:DescribeModelPackageGroup",
                 "sagemaker:ListModelPackages", "sagemaker:ListTags"],
                [
                    *self._jobs(),
                    *arns(self, "sagemaker", f"model-package/{self._own}/*", f"model-package-group/{self._own}",
                          *self._served()),
                ],
            ),
            allow([f"sagemaker:List{what}" for what in (
                "Endpoints", "EndpointConfigs", "Models", "ModelPackageGroups", "TrainingJobs")], ["*"]),
            *ask(self._settings, partial(arns, self), self._bucket, self._key),
            *look_at_components(self._settings, partial(arns, self)),
            *list_components(self._settings),
            allow(
                ["logs:GetLogEvents", "logs:FilterLogEvents", "logs:DescribeLogStreams"],
                arns(self, "logs", "log-group:/aws/sagemaker/*", f"log-group:/stepforge/{self._settings.name}/*"),
            ),
            allow(
                ["ssm:GetParametersByPath", "ssm:GetParameter"],
                arns(self, "ssm", f"parameter{parameter(self._settings.name, '')}*", f"parameter{self._root()}"),
            ),
            # Null: a set of no keys is within any set.
            allow(["dynamodb:GetItem", "dynamodb:Query"], [self._spend.table_arn], **{
                "ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(_TOLD)},
                "Null": {"dynamodb:LeadingKeys": "false"},
            }),
        ]  # fmt: skip

    def _train(self) -> list[iam.PolicyStatement]:
        started = [self._functions.machine_arn(machine) for machine in STARTED_BY_TRAINERS]
        stopped = [self._executions(machine) for machine in (*STARTED_BY_TRAINERS, "run-job")]
        bucket, spend = self._bucket, [self._spend.table_arn]
        tagged, name = f"aws:ResourceTag/{ENVIRONMENT_TAG}", self._settings.name
        return [
            write_objects(bucket, "pipelines", "specs", "raw", "prices", "finetune", *_LAKE),
            # To decrypt is the viewer's.
            allow(["kms:GenerateDataKey"], [self._key.key_arn]),
            start(*started),
            allow(["states:StopExecution"], stopped),
            allow(["sagemaker:CreateTrainingJob", "sagemaker:AddTags"], self._jobs()),
            # Another environment's jobs have such names too, and who could tag one anew could stop it.
            allow(["sagemaker:StopTrainingJob"], self._jobs(), StringEquals={tagged: name}),
            deny(["sagemaker:AddTags"], ["*"], StringNotEquals={tagged: name}, Null={tagged: "false"}),
            pass_roles(*self._functions.roles.jobs.values()),
            *self._held(),
            # Whoever trains neither approves nor promotes, with whatever other policy.
            deny(
                ["sagemaker:UpdateModelPackage", "sagemaker:CreateModelPackage", "sagemaker:DeleteModelPackage"],
                self._packages(),
            ),
            deny(["states:SendTask*"], ["*"]),
            deny(["states:StartExecution"], [self._functions.machine_arn("promote")]),
            deny(["s3:GetObject", "s3:PutObject"], [bucket.arn_for_objects("approvals/*")]),
            deny(
                ["dynamodb:*GetItem", "dynamodb:Query"],
                spend,
                **{"ForAnyValue:StringEquals": {"dynamodb:LeadingKeys": [_WAITING]}},
            ),
            deny(["dynamodb:Scan", "dynamodb:PartiQL*", "dynamodb:ExportTable*"], spend),
        ]

    def _held(self) -> list[iam.PolicyStatement]:
        """A job by hand is held to what the machine's are; the local AWS has no limits."""
        settings = self._settings
        return deny_unguarded_jobs(vpc=settings.jobs_need_vpc) if settings.local else guardrails(settings)

    def _approve(self) -> list[iam.PolicyStatement]:
        return [
            *read_objects(self._bucket, "approvals"),
            # The ledger of paid tunes holds what waits for a person, with its token.
            *use_table(self._spend, self._key, "GetItem", "Query", "PutItem", "UpdateItem", "ConditionCheckItem"),
            # IAM knows no resource for an answer: whose token it is decides.
            allow(["states:SendTaskSuccess", "states:SendTaskFailure"], ["*"]),
            allow(["sagemaker:UpdateModelPackage"], self._packages(), **DECIDES),
            start(self._functions.machine_arn("approve")),
            # Who approves has not written it, with whatever other policy.
            deny(["s3:PutObject", "s3:DeleteObject"], [self._bucket.arn_for_objects("*")]),
            deny(["sagemaker:CreateTrainingJob", "sagemaker:CreateModelPackage"], ["*"]),
        ]

    def _tidy(self) -> list[iam.PolicyStatement]:
        """What stepforge.housekeeping removes and writes. A deleted object comes back within `replaced_days`."""
        bucket = self._bucket
        lock = bucket.arn_for_objects(f"{_LOCK}/under-way.json")
        served = {
            "Endpoint": f"endpoint/{self._own}-candidate",
            "EndpointConfig": f"endpoint-config/{self._own}",
            "Model": f"model/{self._own}",
        }
        return [
            *(
                allow([f"sagemaker:Delete{kind}"], arns(self, "sagemaker", resource))
                for kind, resource in served.items()
            ),
            allow(["s3:DeleteObject"], [lock, *(bucket.arn_for_objects(f"{prefix}/*") for prefix in _REMOVED)]),
            allow(["s3:ListBucket"], [bucket.bucket_arn], StringLike={"s3:prefix": [f"{_LOCK}/*"]}),
            # Costs that nobody booked, before their spec goes, and a manifest that has to go back.
            allow(
                ["s3:PutObject"],
                [lock, bucket.arn_for_objects("ledger/*"), bucket.arn_for_objects("jobs/*/output/model/manifest.json")],
            ),
            use_key(self._key, write=True),
            # Who tidies up neither trains nor approves, with whatever other policy.
            deny(
                ["sagemaker:CreateTrainingJob", "sagemaker:CreateModelPackage", "sagemaker:UpdateModelPackage",
                 "sagemaker:DeleteModelPackage", "states:StartExecution", "states:SendTask*"],
                ["*"],
            ),
        ]  # fmt: skip

    def _packages(self) -> list[str]:
        return arns(self, "sagemaker", f"model-package/{self._own}/*")

    def _served(self) -> list[str]:
        return [f"{what}/{self._own}" for what in ("endpoint", "endpoint-config", "model")]

    def _jobs(self) -> list[str]:
        return arns(self, "sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))

    def _executions(self, machine: Machine) -> str:
        return arns(self, "states", f"execution:{self._functions.machine_name(machine)}:*")[0]

    def _root(self) -> str:
        return parameter(self._settings.name, "").rstrip("/")
