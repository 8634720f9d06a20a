"""An environment is a few stacks: what must survive lies apart from what is replaced every day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.access import Approver, Ci, Held
from cdk.account import STACK as ACCOUNT
from cdk.account import Account
from cdk.alerts import Alerts, tell
from cdk.budgets import Budgets
from cdk.dashboard import Dashboard
from cdk.data import Data
from cdk.finetune import Finetune
from cdk.functions import Functions
from cdk.guardrails import guardrails
from cdk.images import Images
from cdk.keys import Keys
from cdk.machines import Machines
from cdk.network import Network
from cdk.parameters import Parameters
from cdk.people import People
from cdk.promotion import Promotion
from cdk.registry import Registry
from cdk.roles import Roles
from cdk.secrets import Secrets
from cdk.settings import Settings
from cdk.studio import Mlflow, Studio
from cdk.trail import Writes
from stepforge.contracts.names import ENVIRONMENT_TAG


class _Stack(cdk.Stack):
    """`stepforge-{environment}-{part}`. `kept`: it refuses to be deleted where the environment's data is to survive."""

    def __init__(self, scope: Construct, settings: Settings, part: str = "", *, kept: bool = False, **options: Any):
        name = f"stepforge-{settings.name}" + (f"-{part}" if part else "")
        self._zones = list(settings.zones)
        super().__init__(
            scope,
            name,
            env=cdk.Environment(account=settings.account, region=settings.region),
            description=f"stepforge {settings.name}: {part or 'training, registry and promotion of models'}",
            termination_protection=settings.keep_data and kept,
            **options,
        )
        cdk.Tags.of(self).add(ENVIRONMENT_TAG, settings.name)

    @property
    def availability_zones(self) -> list[str]:
        """As the settings say: CDK would look them up in the account."""
        return self._zones


class DataStack(_Stack):
    """What must survive: keys, the bucket, the groups of models, and the topic that everything else tells."""

    def __init__(self, scope: Construct, settings: Settings, **options: Any) -> None:
        super().__init__(scope, settings, "data", kept=True, **options)
        self.keys = Keys(self, settings)
        found = Data(self, settings, key=self.keys.data)
        self.bucket, self.access_logs = found.bucket, found.access_logs
        if self.access_logs is not None:
            Writes(self, settings, bucket=self.bucket, access_logs=self.access_logs, key=self.keys.logs)
        self.topic = Alerts(self, settings, key=self.keys.alerts).topic
        Registry(self, settings)


class Stepforge(_Stack):
    """The machines and all that they call. `local` has its bucket and key in here too: one stack, one template."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        *,
        data: DataStack | None = None,
        network: Network | None = None,
        **options: Any,
    ) -> None:
        super().__init__(scope, settings, **options)
        if data is None:
            key = Keys(self, settings).data
            bucket = Data(self, settings, key=key).bucket
        else:
            key, bucket = data.keys.data, data.bucket
        access_logs = data.access_logs if data else None
        roles = Roles(self, settings, bucket=bucket, key=key)
        self.functions = Functions(self, settings, bucket=bucket, key=key, roles=roles)
        finetune = Finetune(
            self,
            settings,
            functions=self.functions,
            bucket=bucket,
            key=key,
            secrets_key=None if data is None else data.keys.secrets,
            network=network,
        )
        self.machines = Machines(self, functions=self.functions)
        self.people = People(self, functions=self.functions, spend=finetune.table, access_logs=access_logs)
        if data is None:
            Registry(self, settings)
        promotion = Promotion(self, settings, functions=self.functions, machines=self.machines)
        finetune.cancel_what_is_stopped(settings, self.functions, self.machines, dead_letters=promotion.dead_letters)
        Parameters(self, settings, bucket=bucket, key=key, roles=roles, machines=self.machines, network=network)
        if not settings.local:
            Approver(self, settings, people=self.people)
            Held(self, settings, "housekeeper", people=self.people)
            Held(self, settings, "operator", people=self.people)
            self._guard(settings)

    def _guard(self, settings: Settings) -> None:
        role = self.machines["run-job"].role
        iam.ManagedPolicy(
            self,
            "Guardrails",
            managed_policy_name=f"stepforge-{settings.name}-guardrails",
            description="Denies jobs without network or keys, and those above the limits",
            document=iam.PolicyDocument(statements=guardrails(settings)),
            roles=[role],
        )


class NetworkStack(_Stack):
    def __init__(self, scope: Construct, settings: Settings, data: DataStack, **options: Any) -> None:
        super().__init__(scope, settings, "network", **options)
        self.network = Network(self, settings, key=data.keys.logs)


class SecretsStack(_Stack):
    def __init__(
        self, scope: Construct, settings: Settings, data: DataStack, network: Network | None, **options: Any
    ) -> None:
        super().__init__(scope, settings, "secrets", kept=True, **options)
        self.secrets = Secrets(self, settings, key=data.keys.secrets, network=network)


class ImagesStack(_Stack):
    def __init__(self, scope: Construct, settings: Settings, data: DataStack, **options: Any) -> None:
        super().__init__(scope, settings, "images", kept=True, **options)
        self.images = Images(self, settings, key=data.keys.images)


class StudioStack(_Stack):
    """Where people look: MLflow, and Studio where it is asked for."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        data: DataStack,
        network: Network | None,
        main: Stepforge,
        **options: Any,
    ) -> None:
        super().__init__(scope, settings, "studio", kept=True, **options)
        key = data.keys.data
        self.trainers: list[iam.Role] = []
        mlflow = Mlflow(self, settings, bucket=data.bucket, key=key) if settings.studio.mlflow else None
        if settings.studio.enabled:
            assert network is not None
            mlflow_arn = mlflow.arn if mlflow else None
            studio = Studio(
                self, settings, network=network, people=main.people, key=data.keys.studio, mlflow_arn=mlflow_arn
            )
            self.trainers = studio.trainers


class OperationsStack(_Stack):
    """What people and CI do with an environment: its page, its budget, who deploys."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        data: DataStack,
        main: Stepforge,
        alarms: list[str],
        trainers: Sequence[iam.IRole],
        **options: Any,
    ) -> None:
        super().__init__(scope, settings, "operations", **options)
        Dashboard(self, settings, alarms=alarms, handlers=main.functions.names)
        spends = (main.machines["run-job"], main.functions["deploy"], main.functions["finetune"])
        held = [*(one.role for one in spends), *trainers]
        Budgets(self, settings, topic=data.topic, held=[role for role in held if role is not None])
        if settings.repository:
            Ci(self, settings)


def compose(scope: Construct, settings: Settings, **options: Any) -> list[cdk.Stack]:
    """The stacks of an environment, in the order in which they are deployed. `local` is one."""
    if settings.local:
        return [Stepforge(scope, settings, **options)]
    if scope.node.try_find_child(ACCOUNT) is None:
        Account(scope, env=cdk.Environment(account=settings.account, region=settings.region))
    data = DataStack(scope, settings, **options)
    within = NetworkStack(scope, settings, data, **options) if settings.network else None
    network = within.network if within else None
    secrets = SecretsStack(scope, settings, data, network, **options)
    images = ImagesStack(scope, settings, data, **options)
    main = Stepforge(scope, settings, data=data, network=network, **options)
    stacks: list[cdk.Stack] = [data, *([within] if within else []), secrets, images, main]
    trainers: list[iam.Role] = []
    if settings.studio.enabled or settings.studio.mlflow:
        studio = StudioStack(scope, settings, data, network, main, **options)
        stacks.append(studio)
        trainers = studio.trainers
    alarms = [name for stack in stacks for name in tell(stack, data.topic)]
    stacks.append(OperationsStack(scope, settings, data, main, alarms, trainers, **options))
    for stack in stacks:
        _encrypt_logs(stack, data.keys)
    return stacks


def _encrypt_logs(stack: cdk.Stack, keys: Keys) -> None:
    """Every log group of a stack, whoever made it: a new one cannot forget it."""
    for child in stack.node.find_all():
        if isinstance(child, logs.CfnLogGroup):
            child.kms_key_id = keys.logs.key_arn
