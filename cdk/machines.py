"""The state machines: their ASL as it lies in statemachines/, with tokens filled in, and a role each."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.code import ROOT
from cdk.functions import RETENTION, Functions
from cdk.policies import allow, grant_key_to_aws, pass_role
from cdk.roles import Roles
from cdk.settings import Settings
from stepforge.contracts.jobs import WORK_TYPES
from stepforge.contracts.names import Machine

HANDLERS: dict[Machine, tuple[str, ...]] = {
    "run-job": ("find_attempt", "classify_job", "explain"),
    "train": ("plan_job", "read_gate", "compare", "register", "explain"),
    "promote": ("verify_package", "deploy", "smoke", "stamp", "finetune", "explain"),
    "finetune": ("finetune", "explain"),
}


class Machines(Construct):
    """`self[name]` is the machine of statemachines/{name}.asl.json."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        functions: Functions,
        bucket: s3.IBucket,
        key: kms.IKey,
        roles: Roles,
    ) -> None:
        super().__init__(scope, "Machines")
        self._settings, self._functions = settings, functions
        self._machines: dict[str, sfn.StateMachine] = {}
        jobs = functions.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))
        self._add(
            "run-job",
            {"TrainingRoleArn": roles.training.role_arn, "Bucket": bucket.bucket_name},
            [
                allow([f"sagemaker:{verb}TrainingJob" for verb in ("Create", "Describe", "Stop")], jobs),
                allow(["sagemaker:AddTags"], jobs),
                pass_role(roles.training),
                grant_key_to_aws(key),
                self._managed_rule("StepFunctionsGetEventsForSageMakerTrainingJobsRule"),
            ],
        )
        run_job = self["run-job"]
        self._add("train", {"RunJobArn": run_job.state_machine_arn}, [
            allow(["states:StartExecution"], [run_job.state_machine_arn]),
            allow(
                ["states:DescribeExecution", "states:StopExecution"],
                functions.arns("states", f"execution:{functions.machine_name('run-job')}:*"),
            ),
            self._managed_rule("StepFunctionsGetEventsForStepFunctionsExecutionRule"),
        ])  # fmt: skip
        self._add("promote", {}, [])
        self._add("finetune", {}, [])

    def __getitem__(self, name: Machine) -> sfn.StateMachine:
        return self._machines[name]

    def _add(self, name: Machine, tokens: dict[str, str], statements: Sequence[iam.PolicyStatement]) -> None:
        identifier = "".join(part.title() for part in name.split("-"))
        role = iam.Role(self, f"{identifier}Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        handlers = {handler: self._functions[handler].function_arn for handler in HANDLERS[name]}
        for statement in (*statements, allow(["lambda:InvokeFunction"], list(handlers.values()))):
            role.add_to_policy(statement)
        log_group = logs.LogGroup(
            self,
            f"{identifier}Logs",
            # Log delivery needs this prefix once the account's resource policy is full.
            log_group_name=f"/aws/vendedlogs/states/{self._functions.machine_name(name)}",
            retention=RETENTION[self._settings.log_retention_days],
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        self._machines[name] = sfn.StateMachine(
            self,
            identifier,
            state_machine_name=self._functions.machine_name(name),
            definition_body=sfn.DefinitionBody.from_string(
                (ROOT / "statemachines" / f"{name}.asl.json").read_text(encoding="utf-8")
            ),
            definition_substitutions={**tokens, **{token(handler): arn for handler, arn in handlers.items()}},
            role=role,
            # Inputs name records and reasons of a user's data: history keeps them, logs do not.
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
            tracing_enabled=True,
        )

    def _managed_rule(self, rule: str) -> iam.PolicyStatement:
        """The rule through which Step Functions learns that what a .sync task started has ended."""
        arns = self._functions.arns("events", f"rule/{rule}")
        return allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], arns)


def token(handler: str) -> str:
    """The token in the ASL that stands for a handler: `plan_job` is `PlanJobArn`."""
    return "".join(part.title() for part in handler.split("_")) + "Arn"
