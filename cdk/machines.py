"""The state machines: their ASL as it lies in statemachines/, with tokens filled in, and a role each."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.code import ROOT
from cdk.functions import Functions
from cdk.policies import DECIDES, allow, deny_unguarded_jobs, grant_key_to_aws, groups, pass_roles, start, use_key
from cdk.retention import RETENTION
from stepforge.contracts.names import LIVE, Machine
from stepforge.contracts.work import WORK_TYPES

HANDLERS: dict[Machine, tuple[str, ...]] = {
    "run-job": ("find_attempt", "classify_job", "explain"),
    "train": ("plan_job", "read_gate", "plan_champion", "compare", "register", "explain"),
    "evaluate": ("plan_evaluation", "explain"),
    "dataset": ("plan_parts", "join_parts", "read_gate", "explain"),
    "approve": ("ask_person", "explain"),
    "promote": ("verify_package", "deploy", "smoke", "stamp", "finetune", "explain"),
    "finetune": ("finetune", "explain"),
}

ALARMED = {"failed": "ExecutionsFailed", "timed-out": "ExecutionsTimedOut"}
"""Endings that somebody is told of, `{machine}-{ending}`, to their metric. An execution is stopped by a person, or by
the one that waited for it, and neither is news."""


class Machines(Construct):
    """`self[name]` is the machine of statemachines/{name}.asl.json, and `self.live(name)` what starts it."""

    def __init__(self, scope: Construct, *, functions: Functions) -> None:
        super().__init__(scope, "Machines")
        self._settings, self._functions = functions.settings, functions
        jobs_run_as = functions.roles.jobs
        self._machines: dict[str, sfn.StateMachine] = {}
        self._aliases: dict[str, sfn.CfnStateMachineAlias] = {}
        jobs = functions.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))
        self._add(
            "run-job",
            {
                "Bucket": functions.bucket.bucket_name,
                **{f"{kind.title()}RoleArn": role.role_arn for kind, role in jobs_run_as.items()},
            },
            [
                allow([f"sagemaker:{verb}TrainingJob" for verb in ("Create", "Describe", "Stop")], jobs),
                allow(["sagemaker:AddTags"], jobs),
                pass_roles(*jobs_run_as.values()),
                *deny_unguarded_jobs(vpc=self._settings.jobs_need_vpc),
                *grant_key_to_aws(functions.key),
                self._managed_rule("StepFunctionsGetEventsForSageMakerTrainingJobsRule"),
            ],
        )
        run_job = {"RunJobArn": self.live("run-job")}
        self._add("train", run_job, self._run_jobs())
        self._add("evaluate", run_job, self._run_jobs())
        self._add("dataset", run_job, [*self._run_jobs(), *self._map()])
        packages = functions.arns("sagemaker", f"model-package/{groups(self._settings.name)}/*")
        # Who starts it asks; who holds the token, which the approvers alone can read, decides.
        self._add("approve", {}, [allow(["sagemaker:UpdateModelPackage"], packages, **DECIDES)])
        self._add("promote", {}, [])
        self._add("finetune", {}, [])

    def __getitem__(self, name: Machine) -> sfn.StateMachine:
        return self._machines[name]

    def live(self, name: Machine) -> str:
        """ARN of the alias that points to the version, or two for a while, that is started."""
        return self._aliases[name].ref

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
            definition_body=sfn.DefinitionBody.from_string(self._definition(name)),
            definition_substitutions={**tokens, **{token(handler): arn for handler, arn in handlers.items()}},
            role=role,
            # Inputs name records and reasons of a user's data: history keeps them, logs do not.
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
            tracing_enabled=True,
        )
        self._publish(name, identifier)

    def _publish(self, name: Machine, identifier: str) -> None:
        machine, gradual = self._machines[name], self._settings.gradual
        at_once = gradual.type == "ALL_AT_ONCE"
        version = sfn.CfnStateMachineVersion(
            self,
            f"{identifier}Version",
            state_machine_arn=machine.state_machine_arn,
            state_machine_revision_id=machine.state_machine_revision_id,
        )
        # What was before can be gone back to by hand. Versions go with their machine, so a tear-down keeps none.
        version.cfn_options.update_replace_policy = cdk.CfnDeletionPolicy.RETAIN
        version.cfn_options.deletion_policy = cdk.CfnDeletionPolicy.DELETE
        self._aliases[name] = sfn.CfnStateMachineAlias(
            self,
            f"{identifier}Alias",
            name=LIVE,
            state_machine_arn=machine.state_machine_arn,
            deployment_preference=sfn.CfnStateMachineAlias.DeploymentPreferenceProperty(
                state_machine_version_arn=version.ref,
                type=gradual.type,
                interval=None if at_once else gradual.minutes,
                percentage=None if at_once else gradual.percent,
                # Names: CloudWatch takes an ARN for an alarm that does not exist, and so for one that is OK.
                alarms=[f"{self._functions.machine_name(name)}-{ending}" for ending in ALARMED],
            ),
        )

    def _definition(self, name: Machine) -> str:
        """The ASL as it lies there, but for the partition of the integrations' ARNs: linters know no token in them."""
        text = (ROOT / "statemachines" / f"{name}.asl.json").read_text(encoding="utf-8")
        return text.replace("arn:aws:states:::", f"arn:{cdk.Stack.of(self).partition}:states:::")

    def _run_jobs(self) -> list[iam.PolicyStatement]:
        """Start executions of `run-job`, wait for them, and stop them when the machine's own execution is stopped."""
        executions = self._functions.arns("states", f"execution:{self._functions.machine_name('run-job')}:*")
        return [
            start(self["run-job"].state_machine_arn),
            allow(["states:DescribeExecution", "states:StopExecution"], executions),
            self._managed_rule("StepFunctionsGetEventsForStepFunctionsExecutionRule"),
        ]

    def _map(self) -> list[iam.PolicyStatement]:
        """A Distributed Map runs its items as executions of the machine itself, and reads them from S3.

        https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
        """
        own = self._functions.machine_name("dataset")
        return [
            allow(["states:StartExecution"], self._functions.arns("states", f"stateMachine:{own}")),
            allow(
                ["states:DescribeExecution", "states:StopExecution"],
                self._functions.arns("states", f"execution:{own}/*"),
            ),
            allow(["s3:GetObject"], [self._functions.bucket.arn_for_objects("specs/*")]),
            use_key(self._functions.key),
        ]

    def _managed_rule(self, rule: str) -> iam.PolicyStatement:
        """The rule through which Step Functions learns that what a .sync task started has ended."""
        arns = self._functions.arns("events", f"rule/{rule}")
        return allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], arns)


def token(handler: str) -> str:
    """The token in the ASL that stands for a handler: `plan_job` is `PlanJobArn`."""
    return "".join(part.title() for part in handler.split("_")) + "Arn"
