"""Keys of providers: a secret each, written by its rotation function alone, and the people who hand new keys in."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk.alerts import alarm
from cdk.code import RUNTIME, bundled
from cdk.layers import layer
from cdk.network import Network, where_providers_are_called
from cdk.policies import allow, arns
from cdk.retention import RETENTION
from cdk.settings import Settings

_WRITE = ["secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"]
_CHANGE = [
    f"secretsmanager:{verb}" for verb in (
        "UpdateSecret", "DeleteSecret", "PutResourcePolicy", "DeleteResourcePolicy", "CancelRotateSecret",
        "ReplicateSecretToRegions",
    )
]  # fmt: skip
"""`UpdateSecret` writes a value, too; the others end what guards one, or take it where this policy does not follow."""
TIMEOUT = cdk.Duration.minutes(10)
"""Of one step, whose calls may each wait for a provider: a test adds them up."""
_ROTATE = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue",
           "secretsmanager:UpdateSecretVersionStage"]  # fmt: skip


class Secrets(Construct):
    """`self.arns`: provider to the ARN of its secret. None of them has a value before a person hands a key in."""

    def __init__(self, scope: Construct, settings: Settings, *, key: kms.IKey, network: Network | None) -> None:
        super().__init__(scope, "Secrets")
        self._settings, self._key, self._network = settings, key, network
        self.arns: dict[str, str] = {}
        self.functions: dict[str, lambda_.Function] = {}
        names: list[str] = list(settings.providers.names)
        if not names:
            return
        self._log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/stepforge/{settings.name}/rotation",
            retention=RETENTION[settings.log_retention_days],
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        self._code, self._layer = bundled(), layer(self)
        if "openai" in names and settings.providers.openai_project:
            # First: OpenAI's own rotation reads it.
            names.insert(0, "openai-admin")
        for name in names:
            self._add(name)
        self._keyholder()

    def _add(self, provider: str) -> None:
        settings, stack = self._settings, cdk.Stack.of(self)
        identifier = "".join(part.title() for part in provider.split("-"))
        # L1: the L2 construct would have CloudFormation write a random value, which is no key.
        secret = secretsmanager.CfnSecret(
            self,
            identifier,
            name=f"stepforge/{settings.name}/{provider}",
            description=f"stepforge {settings.name}: the key for {provider}",
            kms_key_id=self._key.key_arn,
        )
        secret.apply_removal_policy(cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY)
        hand_in = hand_in_parameter(settings.name, provider)
        role = iam.Role(self, f"{identifier}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        for statement in (
            allow(_ROTATE, [secret.ref]),
            allow(
                ["ssm:GetParameter", "ssm:DeleteParameter"],
                arns(self, "ssm", f"parameter{hand_in}"),
            ),
            allow(["kms:Decrypt", "kms:GenerateDataKey"], [self._key.key_arn]),
        ):
            role.add_to_policy(statement)
        variables = {"PROVIDER": provider, "HAND_IN": hand_in, "STEM": f"stepforge-{settings.name}-"}
        if provider == "openai" and (project := settings.providers.openai_project):
            variables |= {"OPENAI_PROJECT": project, "ADMIN_SECRET_ARN": self.arns["openai-admin"]}
            role.add_to_policy(allow(["secretsmanager:GetSecretValue"], [self.arns["openai-admin"]]))
        function = lambda_.Function(
            self,
            f"Rotate{identifier}",
            function_name=f"stepforge-{settings.name}-rotate-{provider}",
            runtime=RUNTIME,
            handler="rotate_secret.handler",
            code=self._code,
            layers=[self._layer],
            role=role,
            environment=variables,
            timeout=TIMEOUT,
            memory_size=512,
            log_group=self._log_group,
            tracing=lambda_.Tracing.ACTIVE,
            **where_providers_are_called(self._network, role),
        )
        self._log_group.grant_write(function)
        function.add_permission(
            "SecretsManager",
            principal=iam.ServicePrincipal("secretsmanager.amazonaws.com"),
            source_arn=secret.ref,
            source_account=stack.account,
        )
        schedule = secretsmanager.CfnRotationSchedule(
            self,
            f"{identifier}Schedule",
            secret_id=secret.ref,
            rotation_lambda_arn=function.function_arn,
            # A deployment rotates nothing: there may be no key yet.
            rotate_immediately_on_update=False,
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                automatically_after_days=settings.providers.rotation_days
            ),
        )
        schedule.node.add_dependency(function)
        secretsmanager.CfnResourcePolicy(
            self,
            f"{identifier}Policy",
            secret_id=secret.ref,
            block_public_policy=True,
            resource_policy=_guarded(secret, rotation=role),
        )
        self._alarm(provider, identifier, function)
        self.arns[provider], self.functions[provider] = secret.ref, function

    def _alarm(self, provider: str, identifier: str, function: lambda_.Function) -> None:
        alarm(
            self,
            f"{identifier}Fails",
            name=f"stepforge-{self._settings.name}-rotation-{provider}",
            says=f"the key for {provider} was not rotated",
            runbook="A key was not rotated",
            metric=function.metric_errors(period=cdk.Duration.minutes(5)),
        )

    def _keyholder(self) -> None:
        """Who hands keys in: may leave one and start its rotation, and reads none, not even those left."""
        self.keyholder = iam.Role(
            self,
            "Keyholder",
            role_name=f"stepforge-{self._settings.name}-keyholder",
            assumed_by=iam.AccountRootPrincipal(),
        )
        folder = hand_in_parameter(self._settings.name, "*")
        for statement in (
            allow(["ssm:PutParameter"], arns(self, "ssm", f"parameter{folder}")),
            allow(["kms:Encrypt"], [self._key.key_arn]),
            allow(["secretsmanager:DescribeSecret"], list(self.arns.values())),
            # As it is: by its own function, and as often.
            allow(
                ["secretsmanager:RotateSecret"],
                list(self.arns.values()),
                ArnEqualsIfExists={
                    "secretsmanager:RotationLambdaARN": [found.function_arn for found in self.functions.values()]
                },
                BoolIfExists={"secretsmanager:ModifyRotationRules": "false"},
            ),
        ):
            self.keyholder.add_to_policy(statement)


def hand_in_parameter(environment: str, provider: str) -> str:
    """Not below /stepforge/, which everybody who uses an environment reads."""
    return f"/stepforge-keys/{environment}/{provider}"


def _guarded(secret: secretsmanager.CfnSecret, *, rotation: iam.IRole) -> dict[str, Any]:
    """What nobody may do, whatever else they are allowed, but the one role that needs it.

    A deployment changes the secret and this policy as CloudFormation's role, that of the CDK's bootstrap: it may lift
    all of this, and so may whoever deploys.
    """
    stack = cdk.Stack.of(secret)
    synthesizer = stack.synthesizer
    assert isinstance(synthesizer, cdk.DefaultStackSynthesizer)
    deploys = synthesizer.cloud_formation_execution_role_arn
    deploys = cdk.Fn.sub(deploys.replace("${AWS::Partition}", stack.partition))
    return {
        "Version": "2012-10-17",
        "Statement": [
            _all_but(rotation.role_arn, "OnlyItsRotationWrites", _WRITE, secret.ref),
            _all_but(deploys, "OnlyADeploymentChanges", _CHANGE, secret.ref),
        ],
    }


def _all_but(role: str, sid: str, actions: list[str], arn: str) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": arn,
        "Condition": {"ArnNotEquals": {"aws:PrincipalArn": role}},
    }
