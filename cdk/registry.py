"""Model package groups of the domains that ship, and the log groups of what serves them.

A user's own domain makes its group when it first registers; SageMaker makes the log groups of its endpoints, without an
end and without a key of ours, unless `domains` of the environment names it.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from cdk.retention import RETENTION
from cdk.serving import log_groups
from cdk.settings import Settings
from stepforge.contracts.names import package_group


class Registry(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Registry")
        self._settings = settings
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
            if not settings.local:
                self._logs(domain)

    def _logs(self, domain: str) -> None:
        """Where SageMaker writes what an endpoint prints: it takes a group that is there, and makes one that is not."""
        settings = self._settings
        for number, name in enumerate(log_groups(settings, package_group(domain, settings.name))):
            logs.LogGroup(
                self,
                f"{domain.title()}Logs{number}",
                log_group_name=name,
                retention=RETENTION[settings.log_retention_days],
                # With its name a deployment takes a kept one back (`--import-existing-resources`).
                removal_policy=cdk.RemovalPolicy.RETAIN if settings.keep_data else cdk.RemovalPolicy.DESTROY,
            )
