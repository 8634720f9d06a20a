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

from cdk.code import bundled, uploaded
from cdk.layers import layer
from cdk.policies import allow, grant_key_to_aws, groups, pass_role, read_objects, use_key, write_objects
from cdk.retention import RETENTION
from cdk.roles import Roles
from cdk.settings import Settings
from stepforge.contracts.names import group_prefix, parameter
from stepforge.contracts.work import WORK_TYPES


class Functions(Construct):
    """`self[name]` is the handler lambdas/{name}.py. People subscribe to `approvals` to hear of questions."""

    def __init__(
        self, scope: Construct, settings: Settings, *, bucket: s3.IBucket, key: kms.IKey, roles: Roles
    ) -> None:
        super().__init__(scope, "Functions")
        self._settings = settings
        self._stack = cdk.Stack.of(self)
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
        data = {"BUCKET": bucket.bucket_name, "KEY_ARN": key.key_arn}
        planning = {**data, "ENVIRONMENT": settings.name}
        serve = {"SERVE_INSTANCE_TYPE": settings.serve_instance_type}
        fleet = {**serve, "SERVE_INSTANCES": str(settings.serve_instances)}
        rollout = {"ROLLOUT": settings.rollout, "BAKE_SECONDS": str(settings.bake_seconds)}
        jobs = self.arns("sagemaker", *(f"training-job/{kind}-*" for kind in WORK_TYPES))
        look_at_jobs = allow(["sagemaker:DescribeTrainingJob", "sagemaker:ListTags"], jobs)
        own = groups(settings.name)
        packages = self.arns("sagemaker", f"model-package/{own}/*")
        group_arns = self.arns("sagemaker", f"model-package-group/{own}")
        promotions = self.arns("states", f"execution:{self.machine_name('promote')}:*")
        read_packages = [
            # A list is granted on what it lists.
            allow(["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"], packages),
        ]

        # run-job
        self.add(
            "find_attempt",
            {**data, "POLL_SECONDS": str(settings.job_poll_seconds)},
            [look_at_jobs, *read_objects(bucket, "jobs"), use_key(key)],
        )
        self.add(
            "classify_job",
            data,
            [
                look_at_jobs,
                *read_objects(bucket, "jobs", "specs", "prices"),
                write_objects(bucket, "ledger"),
                use_key(key, write=True),
            ],
        )
        self.add("explain", {}, [])
        # train
        self.add(
            "plan_job",
            planning,
            [*read_objects(bucket, "pipelines"), write_objects(bucket, "specs"), use_key(key, write=True)],
        )
        self.add("read_gate", {}, [*read_objects(bucket, "jobs"), use_key(key)])
        self.add("plan_champion", planning, [
            *read_objects(bucket, "jobs", "pipelines"), write_objects(bucket, "specs"), use_key(key, write=True),
            *read_packages,
        ])  # fmt: skip
        self.add("compare", {}, [*read_objects(bucket, "jobs", "pipelines"), use_key(key), *read_packages])
        self.add("register", {"ENVIRONMENT": settings.name, **serve}, [
            *read_objects(bucket, "jobs", "pipelines"),
            use_key(key),
            *read_packages,
            allow(["sagemaker:CreateModelPackageGroup", "sagemaker:DescribeModelPackageGroup"], group_arns),
            # A trainer neither approves nor promotes.
            allow(["sagemaker:CreateModelPackage"], packages, StringEqualsIfExists={
                "sagemaker:ModelApprovalStatus": "PendingManualApproval",
                "sagemaker:ModelLifeCycle:stage": "Development",
            }),
            allow(["ssm:GetParameter"], self.arns("ssm", f"parameter{parameter(settings.name, 'images/serve')}")),
        ])  # fmt: skip
        # evaluate and dataset
        for name in ("plan_evaluation", "plan_parts"):
            self.add(
                name, planning,
                [*read_objects(bucket, "pipelines"), write_objects(bucket, "specs"), use_key(key, write=True)],
            )  # fmt: skip
        self.add(
            "join_parts",
            planning,
            [
                *read_objects(bucket, "pipelines", "jobs"),
                write_objects(bucket, "specs", "raw/dataset"),
                use_key(key, write=True),
            ],
            timeout=cdk.Duration.minutes(15),
        )
        # approve
        self.add(
            "ask_person",
            {**planning, "TOPIC_ARN": self.approvals.topic_arn},
            [
                write_objects(bucket, "approvals"),
                use_key(key, write=True),
                allow(["sns:Publish"], [self.approvals.topic_arn]),
            ],
        )
        # promote
        self.add(
            "verify_package",
            {**fleet, "ENDPOINT_POLL_SECONDS": str(settings.endpoint_poll_seconds)},
            [
                *read_packages,
                *read_objects(bucket, "jobs"),
                use_key(key),
                allow(["sagemaker:DescribeEndpoint"], self.arns("sagemaker", f"endpoint/{own}")),
            ],
            # Every byte of the weights is hashed; this is the longest that Lambda allows.
            timeout=cdk.Duration.minutes(15),
            memory=2048,
        )
        serving = {"KEY_ARN": key.key_arn, "SERVING_ROLE_ARN": roles.serving.role_arn}
        self.add("deploy", {**serving, **fleet, **rollout}, [
            allow(
                [f"sagemaker:{verb}{what}" for what in ("Model", "EndpointConfig", "Endpoint")
                 for verb in ("Create", "Describe", "Delete")] + ["sagemaker:UpdateEndpoint"],
                self.arns("sagemaker", f"model/{own}", f"endpoint-config/{own}", f"endpoint/{own}"),
            ),
            pass_role(roles.serving),
            grant_key_to_aws(key),
            # The candidate's tag names the execution that it belongs to.
            allow(["sagemaker:AddTags", "sagemaker:ListTags"], self.arns("sagemaker", f"endpoint/{own}")),
            allow(["states:DescribeExecution"], promotions),
            allow(["sagemaker:DescribeModelPackage"], packages),
            allow(["cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"],
                  self.arns("cloudwatch", f"alarm:{own}")),
        ])  # fmt: skip
        self.add("smoke", {}, [
            *read_objects(bucket, "jobs"),
            use_key(key),
            allow(["sagemaker:InvokeEndpoint"], self.arns("sagemaker", f"endpoint/{own}")),
        ])  # fmt: skip
        # What stamps a package neither approves nor rejects it.
        stamps = allow(["sagemaker:UpdateModelPackage"], packages, Null={"sagemaker:ModelApprovalStatus": "true"})
        self.add("stamp", {}, [*read_packages, stamps])
        self.add("on_rejection", {}, [
            *read_packages,
            allow(["sagemaker:UpdateModelPackage"], packages, Null={"sagemaker:ModelApprovalStatus": "true"},
                  StringEqualsIfExists={"sagemaker:ModelLifeCycle:stage": "Development"}),
        ])  # fmt: skip
        ours = {"GROUP_PREFIX": group_prefix(settings.name)}
        self.add("on_approval", {"PROMOTE_ARN": self.machine_arn("promote"), **ours}, [
            *read_packages,
            allow(["sagemaker:ListModelPackageGroups"], ["*"]),
            # What a promotion that was stopped left behind.
            allow(["sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint", "sagemaker:ListTags"],
                  self.arns("sagemaker", f"endpoint/{own}-candidate")),
            allow(["states:StartExecution", "states:ListExecutions"], [self.machine_arn("promote")]),
            allow(["states:DescribeExecution"], promotions),
        ])  # fmt: skip

    def __getitem__(self, name: str) -> lambda_.Function:
        return self._functions[name]

    @property
    def names(self) -> list[str]:
        return list(self._functions)

    def machine_name(self, machine: str) -> str:
        return f"stepforge-{self._settings.name}-{machine}"

    def machine_arn(self, machine: str) -> str:
        return self.arns("states", f"stateMachine:{self.machine_name(machine)}")[0]

    def arns(self, service: str, *resources: str) -> list[str]:
        stem = f"arn:aws:{service}:{self._stack.region}:{self._stack.account}:"
        return [stem + resource for resource in resources]

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
    ) -> None:
        """Beside those made here: a handler of another construct, which other code may hold."""
        identifier = "".join(part.title() for part in name.split("_"))
        role = iam.Role(self, f"{identifier}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        for statement in statements:
            role.add_to_policy(statement)
        function = lambda_.Function(
            self,
            identifier,
            function_name=f"stepforge-{self._settings.name}-{name.replace('_', '-')}",
            runtime=lambda_.Runtime.PYTHON_3_11,
            handler=f"{name}.handler",
            code=code or self._code,
            role=role,
            environment=variables,
            timeout=timeout or cdk.Duration.minutes(2),
            memory_size=memory,
            log_group=self._log_group,
            tracing=lambda_.Tracing.ACTIVE,
            layers=[*self._layers(), *layers],
        )
        self._log_group.grant_write(function)
        self._functions[name] = function

    def _layers(self) -> list[lambda_.ILayerVersion]:
        if self._settings.local:
            return []
        if self._layer is None:
            self._layer = layer(self)
        return [self._layer]
