"""The key that everything is encrypted with."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_kms as kms
from constructs import Construct

from cdk.settings import Settings


class Keys(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Keys")
        self.data = kms.Key(
            self,
            "Data",
            alias=f"alias/stepforge-{settings.name}",
            description=f"stepforge {settings.name}: objects, volumes, artifacts",
            enable_key_rotation=True,
            removal_policy=cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY,
        )
