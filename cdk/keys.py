"""One key per purpose. What a key is for says which services may use it, on behalf of whom IAM allows it."""

from __future__ import annotations

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from cdk.policies import arns
from cdk.settings import Settings

_ADMINISTER = [
    f"kms:{verb}" for verb in (
        "CreateAlias", "DeleteAlias", "UpdateAlias", "DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus",
        "ListGrants", "ListKeyPolicies", "ListResourceTags", "PutKeyPolicy", "EnableKey", "DisableKey",
        "EnableKeyRotation", "DisableKeyRotation", "RevokeGrant", "RetireGrant", "ScheduleKeyDeletion",
        "CancelKeyDeletion", "TagResource", "UntagResource", "UpdateKeyDescription", "RotateKeyOnDemand",
        "ListKeyRotations",
    )
]  # fmt: skip
_USE = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey",
        "kms:GenerateDataKeyWithoutPlaintext"]  # fmt: skip

PURPOSES: Mapping[str, tuple[str, ...]] = {
    "data": ("s3", "sagemaker", "sns", "dynamodb"),
    "logs": (),
    "secrets": ("secretsmanager", "ssm"),
    "images": ("ecr", "codebuild", "s3"),
    "alerts": (),
    "studio": ("elasticfilesystem", "sagemaker", "s3"),
}
"""The services through which principals of the account use each key. Logs and alerts are written by AWS itself."""


class Keys(Construct):
    """`self.data` is what a local environment has; the others are made where there is a purpose."""

    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Keys")
        self._settings = settings
        self._region = cdk.Stack.of(self).region
        self.data = kms.Key(
            self,
            "Data",
            alias=f"alias/stepforge-{settings.name}",
            description=f"stepforge {settings.name}: objects, volumes, artifacts",
            enable_key_rotation=True,
            policy=None if settings.local else self._policy("data"),
            removal_policy=self._removal,
        )
        if settings.local:
            return
        account = cdk.Stack.of(self).account
        self.logs = self._key("logs", "log groups and flow logs")
        self.logs.add_to_resource_policy(
            _service(
                f"logs.{self._region}.amazonaws.com",
                [*_USE, "kms:DescribeKey"],
                ArnLike={
                    "kms:EncryptionContext:aws:logs:arn": arns(self, "logs", "log-group:*")[0],
                },
            )
        )
        self.secrets = self._key("secrets", "keys of providers")
        self.images = self._key("images", "images and what builds them")
        self.alerts = self._key("alerts", "messages about alarms, budgets and failed events")
        for service in ("cloudwatch", "events", "budgets", "codestar-notifications"):
            self.alerts.add_to_resource_policy(
                _service(
                    f"{service}.amazonaws.com",
                    ["kms:Decrypt", "kms:GenerateDataKey"],
                    StringEquals={"aws:SourceAccount": account},
                )
            )
        if settings.studio.enabled or settings.studio.mlflow:
            self.studio = self._key("studio", "home folders of Studio and MLflow's artifacts")

    @property
    def _removal(self) -> cdk.RemovalPolicy:
        return cdk.RemovalPolicy.RETAIN if self._settings.keep_data else cdk.RemovalPolicy.DESTROY

    def _key(self, purpose: str, description: str) -> kms.Key:
        return kms.Key(
            self,
            purpose.title(),
            alias=f"alias/stepforge-{self._settings.name}-{purpose}",
            description=f"stepforge {self._settings.name}: {description}",
            enable_key_rotation=True,
            policy=self._policy(purpose),
            removal_policy=self._removal,
        )

    def _policy(self, purpose: str) -> iam.PolicyDocument:
        """The account administers the key, and IAM may allow its use through the purpose's services alone."""
        account = iam.AccountRootPrincipal()
        statements = [iam.PolicyStatement(sid="Administer", principals=[account], actions=_ADMINISTER, resources=["*"])]
        if services := [f"{name}.{self._region}.amazonaws.com" for name in PURPOSES[purpose]]:
            through = {"kms:ViaService": services}
            statements += [
                iam.PolicyStatement(
                    sid="UseThroughServices",
                    principals=[account],
                    actions=_USE,
                    resources=["*"],
                    conditions={"StringEquals": through},
                ),
                iam.PolicyStatement(
                    sid="GrantToServices",
                    principals=[account],
                    actions=["kms:CreateGrant"],
                    resources=["*"],
                    conditions={"StringEquals": through, "Bool": {"kms:GrantIsForAWSResource": "true"}},
                ),
            ]
        return iam.PolicyDocument(statements=statements)


def _service(name: str, actions: list[str], **conditions: dict[str, str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        principals=[iam.ServicePrincipal(name)], actions=actions, resources=["*"], conditions=conditions
    )
