"""Model package groups of the domains that ship; a user's own domain makes its group when it first registers."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from cdk.settings import Settings
from stepforge.contracts.names import package_group


class Registry(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Registry")
        for domain in settings.domains:
            group = sagemaker.CfnModelPackageGroup(
                self,
                domain.title(),
                model_package_group_name=package_group(domain, settings.name),
                model_package_group_description=f"Models of the domain {domain}",
            )
            if settings.keep_data:
                # With models in it a group cannot be deleted, and its stack neither.
                group.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
