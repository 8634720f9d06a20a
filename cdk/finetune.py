"""Paid tunes: the table of the spend ledger, the handlers of the machine `finetune`, and what cancels a stopped one."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.code import bundled_for_finetune
from cdk.functions import Functions
from cdk.machines import Machines
from cdk.network import Network
from cdk.occasions import handler, on_event
from cdk.policies import allow, groups, read_objects, use_key, use_table, write_objects
from cdk.settings import Settings
from stepforge.contracts.names import ENVIRONMENT_TAG, TUNE_PREFIX, spend_table

LEDGER_ACTIONS = ("GetItem", "PutItem", "UpdateItem", "Query", "ConditionCheckItem")
"""A transaction is granted by what it is made of. Nothing may delete."""


TUNING_PROVIDERS = ("openai", "anthropic", "vertex")
"""Whose keys a tune asks with."""
_SERVING = {"Model": "model", "EndpointConfig": "endpoint-config", "Endpoint": "endpoint"}


class Finetune(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        functions: Functions,
        bucket: s3.IBucket,
        key: kms.IKey,
        secrets_key: kms.IKey | None,
        network: Network | None,
    ) -> None:
        """`secrets_key`: of the keys that rotate; None where there are none."""
        super().__init__(scope, "Finetune")
        self.table = dynamodb.Table(
            self,
            "Spend",
            table_name=spend_table(settings.name),
            partition_key=dynamodb.Attribute(name="pk", type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name="sk", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            deletion_protection=settings.keep_data,
            removal_policy=cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY,
        )
        variables = {
            "BUCKET": bucket.bucket_name,
            "ENVIRONMENT": settings.name,
            "SPEND_TABLE": spend_table(settings.name),
            "FINETUNE_FIRST_SECONDS": str(settings.finetune_first_seconds),
            "FINETUNE_MOST_SECONDS": str(settings.finetune_most_seconds),
            "FINETUNE_LIMITS": settings.tunes.model_dump_json(),
        }
        common = [
            *use_table(self.table, key, *LEDGER_ACTIONS),
            *self._keys(settings, functions, secrets_key),
            *self._tuning(settings, functions),
        ]
        code = None if settings.name == "local" else bundled_for_finetune()
        layers = [
            lambda_.LayerVersion.from_layer_version_arn(self, f"Clients{number}", arn)
            for number, arn in enumerate(settings.finetune_layer_arns)
        ]
        own = groups(settings.name)
        packages = functions.arns("sagemaker", f"model-package/{own}/*")
        group_arns = functions.arns("sagemaker", f"model-package-group/{own}")
        functions.add(
            "finetune",
            variables,
            [
                *common,
                *read_objects(bucket, "finetune", "jobs"),
                write_objects(bucket, "finetune"),
                use_key(key, write=True),
                allow(["sagemaker:DescribeModelPackage", "sagemaker:ListModelPackages"], packages),
                allow(["sagemaker:CreateModelPackageGroup", "sagemaker:DescribeModelPackageGroup"], group_arns),
                # Who tunes neither approves nor promotes.
                allow(["sagemaker:CreateModelPackage"], packages, StringEqualsIfExists={
                    "sagemaker:ModelApprovalStatus": "PendingManualApproval",
                    "sagemaker:ModelLifeCycle:stage": "Development",
                }),
            ],
            timeout=cdk.Duration.minutes(15),
            memory=1024,
            code=code,
            layers=layers,
            network=network,
        )  # fmt: skip
        functions.add("finetune_grade", {}, [], code=code)
        if settings.tuning_role_arn is not None:
            role = iam.Role.from_role_arn(self, "TuningRole", settings.tuning_role_arn)
            functions["finetune_grade"].grant_invoke(role)
        after = functions.arns("states", f"execution:{functions.machine_name('finetune')}:*")
        looks = [*read_objects(bucket, "finetune"), use_key(key), allow(["states:DescribeExecution"], after)]
        functions.add("finetune_stopped", variables, [*common, *looks], code=code, layers=layers, network=network)

    @staticmethod
    def _keys(settings: Settings, functions: Functions, secrets_key: kms.IKey | None) -> list[iam.PolicyStatement]:
        """Keys of one's own below finetune/, and those that rotate. Six characters are Secrets Manager's own."""
        named = [f"secret:stepforge/{settings.name}/finetune/*"]
        if secrets_key is not None:
            names = [name for name in settings.providers.names if name in TUNING_PROVIDERS]
            named += [f"secret:stepforge/{settings.name}/{name}-??????" for name in names]
        read = allow(["secretsmanager:GetSecretValue"], functions.arns("secretsmanager", *named))
        if secrets_key is None:
            return [read]
        through = f"secretsmanager.{settings.region}.amazonaws.com"
        return [read, allow(["kms:Decrypt"], [secrets_key.key_arn], StringEquals={"kms:ViaService": through})]

    @staticmethod
    def _tuning(settings: Settings, functions: Functions) -> list[iam.PolicyStatement]:
        if settings.tuning_role_arn is None:
            return []
        verbs = ("Create", "Get", "Stop")
        # What is made of a tune has such names in every environment: its tag says whose it is.
        tunes = functions.arns("sagemaker", f"training-job/{TUNE_PREFIX}*")
        serve = functions.arns("sagemaker", *(f"{what}/{TUNE_PREFIX}*" for what in _SERVING.values()))
        own = {f"aws:ResourceTag/{ENVIRONMENT_TAG}": settings.name}
        given = {f"aws:RequestTag/{ENVIRONMENT_TAG}": settings.name}
        return [
            allow(
                [f"bedrock:{verb}ModelCustomizationJob" for verb in verbs],
                [
                    *functions.arns("bedrock", "model-customization-job/*", "custom-model/*"),
                    f"arn:{cdk.Stack.of(functions).partition}:bedrock:{settings.region}::foundation-model/*",
                ],
            ),
            allow(
                ["bedrock:CreateCustomModelDeployment", "bedrock:GetCustomModelDeployment", "bedrock:InvokeModel"],
                functions.arns("bedrock", "custom-model/*", "custom-model-deployment/*"),
            ),
            # It rewrites a text that is given to it, and reads nothing.
            allow(["bedrock:OptimizePrompt"], ["*"]),
            allow(["sagemaker:CreateTrainingJob"], tunes, StringEquals=given),
            allow(["sagemaker:DescribeTrainingJob"], tunes),
            allow(["sagemaker:StopTrainingJob"], tunes, StringEquals=own),
            # What SageMaker customized answers on an endpoint alone: for its evaluation, and once it is promoted.
            allow([f"sagemaker:Create{what}" for what in _SERVING], serve, StringEquals=given),
            allow([f"sagemaker:Describe{what}" for what in _SERVING], serve),
            allow(
                [*(f"sagemaker:Delete{what}" for what in _SERVING), "sagemaker:InvokeEndpoint"],
                serve,
                StringEquals=own,
            ),
            # Who could tag another's anew could delete it. What is being made has no tags yet.
            allow(["sagemaker:AddTags"], [*tunes, *serve], StringEquals=given, StringEqualsIfExists=own),
            allow(
                ["sagemaker:DescribeHubContent"],
                [f"arn:aws:sagemaker:{settings.region}:aws:hub-content/SageMakerPublicHub/Model/*"],
            ),
            allow(["sagemaker:DescribeModelPackage"], functions.arns("sagemaker", "model-package/*")),
            allow(
                ["iam:PassRole"],
                [settings.tuning_role_arn],
                StringEquals={"iam:PassedToService": ["bedrock.amazonaws.com", "sagemaker.amazonaws.com"]},
            ),
        ]

    def cancel_what_is_stopped(
        self, settings: Settings, functions: Functions, machines: Machines, *, dead_letters: sqs.IQueue
    ) -> None:
        """Step Functions runs nothing after an execution was stopped, so its event does."""
        on_event(
            self,
            "Stopped",
            f"stepforge-{settings.name}-finetune-stopped",
            ("aws.states", "Step Functions Execution Status Change"),
            handler(functions["finetune_stopped"], dead_letters, attempts=100, hours=24),
            detail={
                "status": ["ABORTED", "FAILED", "TIMED_OUT"],
                "stateMachineArn": [machines["finetune"].state_machine_arn],
            },
        )
