"""One stack per environment: it composes, and holds no resource of its own."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from constructs import Construct

from cdk.data import Data
from cdk.finetune import Finetune
from cdk.functions import Functions
from cdk.keys import Keys
from cdk.machines import Machines
from cdk.parameters import Parameters
from cdk.promotion import Promotion
from cdk.registry import Registry
from cdk.roles import Roles
from cdk.settings import Settings


class Stepforge(cdk.Stack):
    def __init__(self, scope: Construct, settings: Settings, **options: Any) -> None:
        super().__init__(
            scope,
            f"stepforge-{settings.name}",
            env=cdk.Environment(account=settings.account, region=settings.region),
            description=f"stepforge {settings.name}: training, registry and promotion of models",
            termination_protection=settings.keep_data,
            **options,
        )
        key = Keys(self, settings).data
        bucket = Data(self, settings, key=key).bucket
        roles = Roles(self, settings, bucket=bucket, key=key)
        functions = Functions(self, settings, bucket=bucket, key=key, roles=roles)
        finetune = Finetune(self, settings, functions=functions, bucket=bucket, key=key)
        machines = Machines(self, settings, functions=functions, bucket=bucket, key=key, roles=roles)
        Registry(self, settings)
        promotion = Promotion(self, settings, functions=functions, machines=machines)
        finetune.cancel_what_is_stopped(settings, functions, machines, dead_letters=promotion.dead_letters)
        Parameters(self, settings, bucket=bucket, key=key, roles=roles, machines=machines)
        cdk.Tags.of(self).add("stepforge:environment", settings.name)
