"""The handlers, a role each."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk.alerts import topic_name
from cdk.code import RUNTIME, bundled, uploaded
from cdk.layers import layer
from cdk.network import Network, where_providers_are_called
from cdk.policies import allow, arns, grant_key_to_aws, groups, pass_roles, read_objects, start, use_key, write_objects
from cdk.retention import RETENTION
from cdk.roles import Roles
from cdk.serving import ask, deploy_components, fleet, look_at_served, remove_candidates, serves_at
from cdk.settings import Settings
from stepforge.contracts.names import ENVIRONMENT_TAG, LIVE, TUNE_PREFIX, group_prefix, parameter
from stepforge.contracts.work import WORK_TYPES


class Functions(Construct):
    """`self[name]` is the handler lambdas/{name}.py. People subscribe to `approvals` to hear of questions."""

    def __init__(
        self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, key: kms.IKey, roles: Roles
    ) -> None:
        super().__init__(scope, "Functions")
        self.settings = settings
        self._code = uploaded(self) if settings.name == "local" else bundled()
        self._log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/stepforge/{settings.name}/handlers",
            retention=RETENTION[settings.log_retention_days],
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        self._functions: dict[str, lambda_.Function] = {}
        self._layer: lambda_.ILayerVersion | None = None
        self.approvals = sns.Topic(
            self,
            "Approvals",
            topic_name=f"stepforge-{settings.name}-approvals",
            display_name=f"stepforge {settings.name}: questions for approvers",
            master_key=key,
            enforce_ssl=True,
        )
        self.bucket, self.key, self.roles = bucket, key, roles
        self._data = {"BUCKET": bucket.bucket_name, "KEY_ARN": key.key_arn}
        self._planning = {**self._data, "ENVIRONMENT": settings.name}
        self._serve = {"SERVE_INSTANCE_TYPE": settings.serve_instance_type}
        self._own = groups(settings.name)
        self._packages = self.arns("sagemaker", f"model-package/{self._own}/*")
        self._read_packages = [
            # A list is granted on what it lists.
            allow(["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"], self._packages),
        ]
        self._of_run_job()
        self._of_train()
        self._of_evaluate_and_dataset()
        self._of_approve()
        self._of_promote()

    def _of_run_job(self) -> None:
        jobs = self.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))
        look_at_jobs = allow(["sagemaker:DescribeTrainingJob", "sagemaker:ListTags"], jobs)
        self.add(
            "find_attempt",
            {**self._data, "POLL_SECONDS": str(self.settings.job_poll_seconds)},
            [look_at_jobs, *read_objects(self.bucket, "jobs"), use_key(self.key)],
        )
        self.add(
            "classify_job",
            self._data,
            [
                look_at_jobs,
                *read_objects(self.bucket, "jobs", "specs", "prices"),
                write_objects(self.bucket, "ledger"),
                use_key(self.key, write=True),
            ],
        )
        self.add("explain", {}, [])

    def _of_train(self) -> None:
        group_arns = self.arns("sagemaker", f"model-package-group/{self._own}")
        self.add(
            "plan_job",
            self._planning,
            [
                *read_objects(self.bucket, "pipelines"),
                write_objects(self.bucket, "specs"),
                use_key(self.key, write=True),
            ],
        )
        self.add("read_gate", {}, [*read_objects(self.bucket, "jobs"), use_key(self.key)])
        self.add(
            "plan_champion",
            self._planning,
            [
                *read_objects(self.bucket, "jobs", "pipelines"),
                write_objects(self.bucket, "specs"),
                use_key(self.key, write=True),
                *self._read_packages,
            ],
        )
        self.add(
            "compare", {}, [*read_objects(self.bucket, "jobs", "pipelines"), use_key(self.key), *self._read_packages]
        )
        self.add("register", {"ENVIRONMENT": self.settings.name, **self._serve}, [
            *read_objects(self.bucket, "jobs", "pipelines"),
            use_key(self.key),
            *self._read_packages,
            allow(["sagemaker:CreateModelPackageGroup", "sagemaker:DescribeModelPackageGroup"], group_arns),
            # A trainer neither approves nor promotes.
            allow(["sagemaker:CreateModelPackage"], self._packages, StringEqualsIfExists={
                "sagemaker:ModelApprovalStatus": "PendingManualApproval",
                "sagemaker:ModelLifeCycle:stage": "Development",
            }),
            allow(["ssm:GetParameter"], self.arns("ssm", f"parameter{parameter(self.settings.name, 'images/serve')}")),
        ])  # fmt: skip

    def _of_evaluate_and_dataset(self) -> None:
        for name in ("plan_evaluation", "plan_parts"):
            self.add(
                name,
                self._planning,
                [
                    *read_objects(self.bucket, "pipelines"),
                    write_objects(self.bucket, "specs"),
                    use_key(self.key, write=True),
                ],
            )
        self.add(
            "join_parts",
            self._planning,
            [
                *read_objects(self.bucket, "pipelines", "jobs"),
                write_objects(self.bucket, "specs", "raw/dataset"),
                use_key(self.key, write=True),
            ],
            timeout=cdk.Duration.minutes(15),
        )

    def _of_approve(self) -> None:
        self.add(
            "ask_person",
            {**self._planning, "TOPIC_ARN": self.approvals.topic_arn},
            [
                write_objects(self.bucket, "approvals"),
                use_key(self.key, write=True),
                allow(["sns:Publish"], [self.approvals.topic_arn]),
            ],
        )

    def _of_promote(self) -> None:
        serving_with = {"FLEET": fleet(self.settings, self.bucket).model_dump_json(exclude_none=True)}
        tagged = self.arns("sagemaker", *(f"{kind}/{self._own}" for kind in serves_at(self.settings)))
        rollout = {
            "ROLLOUT": self.settings.rollout,
            "BAKE_SECONDS": str(self.settings.bake_seconds),
            # By its name, as the machines are; the local AWS has nobody to tell.
            "ALARM_TOPIC_ARN": "" if self.settings.local else self.arns("sns", topic_name(self.settings))[0],
        }
        promotions = self.arns("states", f"execution:{self.machine_name('promote')}:*")
        self.add(
            "verify_package",
            {**serving_with, "ENDPOINT_POLL_SECONDS": str(self.settings.endpoint_poll_seconds)},
            [
                *self._read_packages,
                # Weights and evaluations, what a provider's model was asked for with, and what jobs were.
                *read_objects(self.bucket, "jobs", "finetune/requests", "finetune/evaluations", "ledger"),
                use_key(self.key),
                allow(
                    ["sagemaker:DescribeTrainingJob"],
                    self.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES)),
                ),
                *look_at_served(self.settings, self.arns),
                allow(["sagemaker:DescribeModel"], self.arns("sagemaker", f"model/{self._own}")),
            ],
            # Every byte of the weights is hashed; this is the longest that Lambda allows.
            timeout=cdk.Duration.minutes(15),
            memory=2048,
        )
        serving = {"KEY_ARN": self.key.key_arn, "SERVING_ROLE_ARN": self.roles.serving.role_arn}
        self.add("deploy", {**serving, **rollout}, [
            allow(
                [f"sagemaker:{verb}{what}" for what in ("Model", "EndpointConfig", "Endpoint")
                 for verb in ("Create", "Describe", "Delete")] + ["sagemaker:UpdateEndpoint"],
                self.arns("sagemaker", f"model/{self._own}", f"endpoint-config/{self._own}", f"endpoint/{self._own}"),
            ),
            pass_roles(self.roles.serving),
            *grant_key_to_aws(self.key),
            # The environment's tag, by which its budget counts; the candidate's names the execution that it belongs to.
            allow(["sagemaker:AddTags", "sagemaker:ListTags"], tagged),
            allow(["sagemaker:AddTags"],
                  self.arns("sagemaker", f"model/{self._own}", f"endpoint-config/{self._own}")),
            *deploy_components(self.settings, self.arns),
            allow(["states:DescribeExecution"], promotions),
            *self._read_packages,
            allow(["cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
                  self.arns("cloudwatch", f"alarm:{self._own}")),
        ])  # fmt: skip
        self.add("smoke", {}, [
            *read_objects(self.bucket, "jobs"),
            use_key(self.key),
            *ask(self.settings, self.arns, self.bucket, self.key),
        ], timeout=cdk.Duration.minutes(15) if self.settings.serve_mode == "async" else None)  # fmt: skip
        # What stamps a package neither approves nor rejects it.
        stamps = allow(["sagemaker:UpdateModelPackage"], self._packages, Null={"sagemaker:ModelApprovalStatus": "true"})
        self.add("stamp", {}, [*self._read_packages, stamps])
        self.add("on_rejection", {"GROUP_PREFIX": group_prefix(self.settings.name)}, [
            *self._read_packages,
            allow(["sagemaker:UpdateModelPackage"], self._packages, Null={"sagemaker:ModelApprovalStatus": "true"},
                  StringEqualsIfExists={"sagemaker:ModelLifeCycle:stage": "Development"}),
        ])  # fmt: skip
        ours = {
            "GROUP_PREFIX": group_prefix(self.settings.name),
            "KEEP_PREVIOUS_DAYS": str(self.settings.keep_previous_days),
        }
        self.add("on_approval", {"PROMOTE_ARN": f"{self.machine_arn('promote')}:{LIVE}", **ours, **serving_with}, [
            *self._read_packages,
            allow(["sagemaker:ListModelPackageGroups", "sagemaker:ListEndpoints"], ["*"]),
            # What a promotion that was stopped left behind.
            *remove_candidates(self.settings, self.arns),
            # What served before. Tunes of every environment have such names.
            allow(["sagemaker:DescribeEndpoint"],
                  self.arns("sagemaker", f"endpoint/{self._own}", f"endpoint/{TUNE_PREFIX}*")),
            allow(["sagemaker:DeleteEndpoint"], self.arns("sagemaker", f"endpoint/{self._own}")),
            allow(["sagemaker:DeleteEndpoint"], self.arns("sagemaker", f"endpoint/{TUNE_PREFIX}*"),
                  StringEquals={f"aws:ResourceTag/{ENVIRONMENT_TAG}": self.settings.name}),
            # Out of Staging, where a promotion that was stopped left it.
            allow(["sagemaker:UpdateModelPackage"], self._packages, Null={"sagemaker:ModelApprovalStatus": "true"},
                  StringEqualsIfExists={"sagemaker:ModelLifeCycle:stage": ["Development", "Archived"]}),
            start(self.machine_arn("promote")),
            allow(["states:ListExecutions"], [self.machine_arn("promote")]),
            allow(["states:DescribeExecution"], promotions),
        ])  # fmt: skip

    def __getitem__(self, name: str) -> lambda_.Function:
        return self._functions[name]

    @property
    def names(self) -> list[str]:
        return list(self._functions)

    def machine_name(self, machine: str) -> str:
        return f"stepforge-{self.settings.name}-{machine}"

    def machine_arn(self, machine: str) -> str:
        return self.arns("states", f"stateMachine:{self.machine_name(machine)}")[0]

    def arns(self, service: str, *resources: str) -> list[str]:
        return arns(self, service, *resources)

    def add(
        self,
        name: str,
        variables: dict[str, str],
        statements: Sequence[iam.PolicyStatement],
        *,
        timeout: cdk.Duration | None = None,
        memory: int = 512,
        code: lambda_.Code | None = None,
        layers: Sequence[lambda_.ILayerVersion] = (),
        network: Network | None = None,
    ) -> None:
        """Beside those made here: a handler of another construct, which other code may hold.

        With `network` it is placed where providers are called, if there is such a place.
        """
        identifier = "".join(part.title() for part in name.split("_"))
        role = iam.Role(self, f"{identifier}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        for statement in statements:
            role.add_to_policy(statement)
        function = lambda_.Function(
            self,
            identifier,
            function_name=f"stepforge-{self.settings.name}-{name.replace('_', '-')}",
            runtime=RUNTIME,
            handler=f"{name}.handler",
            code=code or self._code,
            role=role,
            environment=variables,
            timeout=timeout or cdk.Duration.minutes(2),
            memory_size=memory,
            log_group=self._log_group,
            tracing=lambda_.Tracing.ACTIVE,
            layers=[*self._layers(), *layers],
            **where_providers_are_called(network, role),
        )
        self._log_group.grant_write(function)
        self._functions[name] = function

    def _layers(self) -> list[lambda_.ILayerVersion]:
        if self.settings.local:
            return []
        if self._layer is None:
            self._layer = layer(self)
        return [self._layer]
