"""Who approves models, and the roles of CI: one looks at pull requests, the other deploys what was reviewed.

No key is stored at GitHub. A workflow's token is bound to the repository, and that of the deploying role to the GitHub
environment of the same name, in which reviewers can be asked for.
"""

from __future__ import annotations

from typing import Literal

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk.people import People
from cdk.policies import allow, arns
from cdk.settings import Settings
from stepforge.contracts.names import parameter

ISSUER = "token.actions.githubusercontent.com"
_QUALIFIER = "hnb659fds"
"""Of `cdk bootstrap`, which names its roles so."""


class Approver(Construct):
    """A role for a person who decides about models: looks at them, approves or rejects, and writes nothing else."""

    def __init__(self, scope: Construct, settings: Settings, *, people: People) -> None:
        super().__init__(scope, "Approver")
        # Without names, IAM in the account says who may take it on.
        trusted = [iam.ArnPrincipal(arn) for arn in settings.approvers] or [iam.AccountRootPrincipal()]
        iam.Role(
            self,
            "Role",
            role_name=f"stepforge-{settings.name}-approver",
            assumed_by=iam.CompositePrincipal(*trusted),
            managed_policies=people.of("approver"),
            max_session_duration=cdk.Duration.hours(1),
        )


class Held(Construct):
    """A role with what a person may do; IAM in the account says who may take it on.

    A housekeeper's for `stepforge gc --apply`, by hand or on a schedule; an operator's for the runbooks.
    """

    def __init__(
        self, scope: Construct, settings: Settings, person: Literal["housekeeper", "operator"], *, people: People
    ) -> None:
        super().__init__(scope, person.title())
        iam.Role(
            self,
            "Role",
            role_name=f"stepforge-{settings.name}-{person}",
            assumed_by=iam.AccountRootPrincipal(),
            managed_policies=people.of(person),
            max_session_duration=cdk.Duration.hours(1),
        )


class Ci(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Ci")
        assert settings.repository is not None
        stack = cdk.Stack.of(self)
        self._provider = f"arn:{stack.partition}:iam::{stack.account}:oidc-provider/{ISSUER}"

        def bootstrap(name: str) -> str:
            role = f"role/cdk-{_QUALIFIER}-{name}-role-{stack.account}-{stack.region}"
            return f"arn:{stack.partition}:iam::{stack.account}:{role}"

        folder = f"parameter{parameter(settings.name, '').rstrip('/')}"
        self.plan = self._role("Plan", settings, f"repo:{settings.repository}:pull_request")
        self.plan.add_to_policy(allow(["sts:AssumeRole"], [bootstrap("lookup")]))
        self.plan.add_to_policy(allow(["ssm:GetParametersByPath"], arns(self, "ssm", folder, f"{folder}/*")))
        self.deploy = self._role("Deploy", settings, f"repo:{settings.repository}:environment:{settings.name}")
        roles = [bootstrap(name) for name in ("lookup", "deploy", "file-publishing")]
        self.deploy.add_to_policy(allow(["sts:AssumeRole"], roles))

    def _role(self, name: str, settings: Settings, subject: str) -> iam.Role:
        return iam.Role(
            self,
            name,
            role_name=f"stepforge-{settings.name}-{name.lower()}",
            description=f"stepforge {settings.name}: {name.lower()} from {settings.repository}",
            assumed_by=iam.FederatedPrincipal(
                self._provider,
                {"StringEquals": {f"{ISSUER}:aud": "sts.amazonaws.com", f"{ISSUER}:sub": subject}},
                "sts:AssumeRoleWithWebIdentity",
            ),
            max_session_duration=cdk.Duration.hours(1),
        )
