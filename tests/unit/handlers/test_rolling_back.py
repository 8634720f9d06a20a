"""A promotion that fails takes back what it did, and nothing that another did while it waited."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.contracts.registry import CHAMPION_GATE, PackageMetadata, Promotion
from stepforge.contracts.serving import Fleet
from stepforge.errors import ArtifactRefused, PromotionBusy
from stepforge.machines.deployment import Deployment, deploy_live, look_live, roll_back, stamp
from tests.fakes import FakeAlarms, FakeSageMaker

from .promoted import GROUP
from .test_modes import REALTIME, SHARED, verified


def another(sagemaker: FakeSageMaker, first: Promotion) -> Promotion:
    """The next version, approved."""
    like = sagemaker.packages[first.package_arn]
    metadata = PackageMetadata.of(like["CustomerMetadataProperties"])
    assert metadata is not None
    arn = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties={**metadata.properties(), CHAMPION_GATE: "better"},
        InferenceSpecification=like["InferenceSpecification"],
    )["ModelPackageArn"]
    version = sagemaker.packages[arn]["ModelPackageVersion"]
    return Promotion(package_arn=arn, group=GROUP, version=version, event_id=f"{version}" * 64)


def live(sagemaker: FakeSageMaker) -> str | None:
    if GROUP in sagemaker.components:
        return str(sagemaker.components[GROUP]["Specification"]["ModelName"])
    found = sagemaker.endpoints.get(GROUP)
    return (
        None if found is None or found["EndpointConfigName"].startswith(f"{GROUP}-i") else found["EndpointConfigName"]
    )


def goes_live(sagemaker: FakeSageMaker, deployment: Deployment) -> Deployment:
    if deployment.fleet.mode == "components" and GROUP not in sagemaker.endpoints:
        with pytest.raises(PromotionBusy):
            deploy_live(sagemaker, FakeAlarms(), deployment)
    deployment = deployment.model_copy(update={"previous_config": look_live(sagemaker, deployment)})
    deploy_live(sagemaker, FakeAlarms(), deployment)
    return deployment


MODES = pytest.mark.parametrize("fleet", [REALTIME, SHARED], ids=["realtime", "components"])


@MODES
def test_of_two_first_versions_the_one_that_fails_leaves_the_one_that_serves(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, fleet: Fleet
) -> None:
    waits = verified(sagemaker, s3, another(sagemaker, promotion), fleet)
    first = goes_live(sagemaker, verified(sagemaker, s3, promotion, fleet))
    stamp(sagemaker, promotion, "deployed", "it answers")
    roll_back(sagemaker, waits)
    assert live(sagemaker) == first.config
    failed = goes_live(sagemaker, waits)
    assert live(sagemaker) == waits.config
    roll_back(sagemaker, failed)
    assert live(sagemaker) == first.config


@MODES
def test_what_fails_goes_back_to_what_went_live_while_it_waited(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, fleet: Fleet
) -> None:
    goes_live(sagemaker, verified(sagemaker, s3, promotion, fleet))
    stamp(sagemaker, promotion, "deployed", "it answers")
    next_ = another(sagemaker, promotion)
    second, third = (verified(sagemaker, s3, p, fleet) for p in (next_, another(sagemaker, promotion)))
    goes_live(sagemaker, second)
    stamp(sagemaker, next_, "deployed", "it answers")
    roll_back(sagemaker, goes_live(sagemaker, third))
    assert live(sagemaker) == second.config


def test_what_a_stopped_promotion_left_on_the_endpoint_is_nothing_to_go_back_to(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion
) -> None:
    first = goes_live(sagemaker, verified(sagemaker, s3, promotion, REALTIME))
    stamp(sagemaker, promotion, "deployed", "it answers")
    goes_live(sagemaker, verified(sagemaker, s3, another(sagemaker, promotion), REALTIME))
    roll_back(sagemaker, goes_live(sagemaker, verified(sagemaker, s3, another(sagemaker, promotion), REALTIME)))
    assert live(sagemaker) == first.config


@pytest.mark.parametrize("status", ["Creating", "Updating", "RollingBack"])
def test_an_endpoint_that_moves_is_neither_looked_at_nor_rolled_back(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, status: str
) -> None:
    deployment = goes_live(sagemaker, verified(sagemaker, s3, promotion, REALTIME))
    sagemaker.endpoints[GROUP]["EndpointStatus"] = status
    for step in (look_live, roll_back):
        with pytest.raises(PromotionBusy, match=status):
            step(sagemaker, deployment)
    assert live(sagemaker) == deployment.config


@MODES
def test_an_approval_that_waited_while_a_later_one_was_promoted_does_not_replace_it(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, fleet: Fleet
) -> None:
    early, late = "2026-11-01T10:00:00+00:00", "2026-11-01T11:00:00+00:00"
    older = promotion.model_copy(update={"approved_at": early})
    newer = another(sagemaker, promotion).model_copy(update={"approved_at": late})
    waits = verified(sagemaker, s3, older, fleet)
    served = goes_live(sagemaker, verified(sagemaker, s3, newer, fleet))
    stamp(sagemaker, newer, "deployed", "it answers")
    with pytest.raises(ArtifactRefused, match=f"version {newer.version}, which serves, was approved later"):
        look_live(sagemaker, waits)
    with pytest.raises(ArtifactRefused, match="was approved later"):
        stamp(sagemaker, older, "deployed", "its provider answers")
    assert live(sagemaker) == served.config
    stamp(sagemaker, newer, "deployed", "a retry of the task")
    again = waits.model_copy(
        update={"promotion": older.model_copy(update={"approved_at": "2026-11-01T12:00:00+00:00"})}
    )
    assert look_live(sagemaker, again) == served.config, "approved anew, the older version comes back"
