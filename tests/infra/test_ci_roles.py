"""What the roles of CI may do: one plans from pull requests, the other deploys from its GitHub environment."""

from __future__ import annotations

import pytest

from .conftest import REPOSITORY, Synth
from .principals import ACCOUNT, REGION, Cloud

BOOTSTRAP = f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-{{}}-role-{ACCOUNT}-{REGION}"
MAY_TAKE_ON = {"CiPlan": {"lookup"}, "CiDeploy": {"lookup", "deploy", "file-publishing"}}
SUBJECTS = {"CiPlan": "pull_request", "CiDeploy": "environment:staging"}


@pytest.fixture(scope="module")
def cloud(synth: Synth) -> Cloud:
    return Cloud(synth.templates["staging"])


@pytest.mark.parametrize("who", MAY_TAKE_ON)
def test_a_role_of_ci_takes_on_these_roles_of_the_bootstrap_and_no_other(cloud: Cloud, who: str) -> None:
    names = ("lookup", "deploy", "file-publishing", "image-publishing", "cfn-exec")
    may = {name for name in names if cloud.decide(who, "sts:AssumeRole", BOOTSTRAP.format(name)) == "allow"}
    assert may == MAY_TAKE_ON[who]
    for principal in cloud.principals.values():
        assert cloud.decide(who, "sts:AssumeRole", principal.arn) == "implicit deny"


def test_beside_that_who_plans_reads_the_environments_parameters_and_who_deploys_nothing(cloud: Cloud) -> None:
    granted = {
        who: {
            action
            for policy in cloud.principals[who].policies
            for statement in policy["Statement"]
            for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
        }
        for who in MAY_TAKE_ON
    }
    assert granted == {"CiPlan": {"sts:AssumeRole", "ssm:GetParametersByPath"}, "CiDeploy": {"sts:AssumeRole"}}
    folder = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/stepforge"
    assert cloud.decide("CiPlan", "ssm:GetParametersByPath", f"{folder}/staging") == "allow"
    for other in (f"{folder}/prod", f"{folder}-keys/staging"):
        assert cloud.decide("CiPlan", "ssm:GetParametersByPath", other) == "implicit deny"


@pytest.mark.parametrize("who", SUBJECTS)
def test_a_role_of_ci_is_taken_on_with_a_token_of_its_repository_and_occasion_alone(cloud: Cloud, who: str) -> None:
    (statement,) = cloud.principals[who].trust["Statement"]
    issuer = "token.actions.githubusercontent.com"
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {f"{issuer}:aud": "sts.amazonaws.com", f"{issuer}:sub": f"repo:{REPOSITORY}:{SUBJECTS[who]}"}
    }


def test_without_a_repository_there_is_no_role_of_ci(synth: Synth) -> None:
    assert not {"CiPlan", "CiDeploy"} & set(Cloud(synth.templates["dev"]).principals)
