"""Who works in Studio may do what the same person may do anywhere, and has a workbench that is nobody else's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.iam import listed

from .conftest import Synth
from .machines import resources
from .principals import ACCOUNT, REGION, Cloud

PEOPLE = {"research": "trainer", "owner": "approver", "reader": "viewer"}
STEM = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
WORKBENCH = {
    "sagemaker:CreateSpace", "sagemaker:UpdateSpace", "sagemaker:DeleteSpace", "sagemaker:DescribeSpace",
    "sagemaker:CreateApp", "sagemaker:DeleteApp", "sagemaker:DescribeApp", "sagemaker:ListApps",
    "sagemaker:ListSpaces", "sagemaker:DescribeDomain", "sagemaker:DescribeUserProfile", "sagemaker:AddTags",
}  # fmt: skip


@pytest.fixture(scope="module")
def cloud(synth: Synth) -> Cloud:
    return Cloud(synth.templates["prod"])


def beside(cloud: Cloud, role: str, person: str) -> set[str]:
    """The actions that a role has beside a person's own policies, all of which it must have."""
    theirs = {json.dumps(policy, sort_keys=True) for policy in cloud.principals[person].policies}
    its = {json.dumps(policy, sort_keys=True) for policy in cloud.principals[role].policies}
    assert theirs <= its, f"{role} lacks a policy of {person}"
    found: list[Any] = [json.loads(policy) for policy in its - theirs]
    return {action for policy in found for s in policy["Statement"] for action in listed(s["Action"])}


@pytest.mark.parametrize(("profile", "person"), PEOPLE.items())
def test_a_profile_has_what_its_person_has_anywhere_and_a_workbench(cloud: Cloud, profile: str, person: str) -> None:
    more = beside(cloud, f"StudioProfile{profile}", person)
    tracking = {"sagemaker:CallMlflowAppApi", "sagemaker:CreatePresignedMlflowAppUrl"}
    assert more == WORKBENCH | {"sagemaker:DescribeMlflowApp"} | (tracking if person == "trainer" else set())


def test_a_profile_that_was_not_made_here_looks_and_starts_no_app(cloud: Cloud) -> None:
    assert beside(cloud, "Studioviewer", "viewer") == {"sagemaker:DescribeMlflowApp"}


def test_every_profile_runs_as_its_own_role_and_the_domain_as_none_of_them(synth: Synth) -> None:
    stack = synth.stacks["stepforge-prod-studio"]
    profiles = resources(stack, "AWS::SageMaker::UserProfile").values()
    run_as = {p["UserProfileName"]: p["UserSettings"]["ExecutionRole"]["Fn::GetAtt"][0] for p in profiles}
    assert set(run_as) == set(PEOPLE)
    (domain,) = resources(stack, "AWS::SageMaker::Domain").values()
    default = domain["DefaultUserSettings"]["ExecutionRole"]["Fn::GetAtt"][0]
    assert len({*run_as.values(), default}) == len(PEOPLE) + 1
    trusted = resources(stack, "AWS::IAM::Role")[default]["AssumeRolePolicyDocument"]["Statement"]
    assert [s["Principal"] for s in trusted] == [{"Service": "sagemaker.amazonaws.com"}]


def test_only_its_owner_opens_an_app_in_a_private_space(cloud: Cloud) -> None:
    domain = cloud.plain({"Fn::GetAtt": [next(n for n in cloud.resources if n.startswith("StudioDomain")), "DomainId"]})
    own = f"{STEM}:user-profile/{domain}/owner"
    private = {"sagemaker__SpaceSharingType": "Private"}
    for action, what in (("sagemaker:CreateApp", "app"), ("sagemaker:CreateSpace", "space")):
        resource = f"{STEM}:{what}/{domain}/mine"
        assert cloud.who_may(action, resource, sagemaker__OwnerUserProfileArn=own, **private) == {"StudioProfileowner"}
        shared = {"sagemaker__SpaceSharingType": "Shared"}
        assert cloud.who_may(action, resource, sagemaker__OwnerUserProfileArn=own, **shared) == set()
        assert cloud.who_may(action, resource) == set()
