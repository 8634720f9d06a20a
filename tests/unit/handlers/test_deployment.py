"""One promotion at a time makes an endpoint, and whatever fails leaves the old model."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import split_uri
from stepforge.contracts.registry import PackageMetadata, Promotion
from stepforge.errors import ArtifactRefused, EndpointFailed, PromotionBusy
from stepforge.machines.deployment import (
    OWNER_TAG,
    Deployment,
    deploy_candidate,
    deploy_live,
    endpoint_state,
    prepare,
    remove_candidate,
    roll_back,
    stamp,
    verify,
)
from stepforge.machines.rollout import Rollout
from tests.fakes import FakeAlarms, FakeSageMaker, refusal

from .conftest import BUCKET, KEY_ARN
from .promoted import FLEET, GROUP, verified


def test_each_step_twice_is_each_step_once(sagemaker: FakeSageMaker, states: Any, deployment: Deployment) -> None:
    for _ in range(2):
        prepare(sagemaker, deployment, role_arn="arn:r", key_arn=KEY_ARN)
        deploy_candidate(sagemaker, states, deployment, execution_arn="arn:me")
        deploy_live(sagemaker, FakeAlarms(), deployment)
        assert endpoint_state(sagemaker, deployment, deployment.endpoint) == "ready"
    for _ in range(2):
        remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=False)
    assert set(sagemaker.endpoints) == {GROUP}
    assert sagemaker.models[deployment.model]["EnableNetworkIsolation"] is True


@pytest.fixture
def executions(states: Any, machine_arn: str) -> tuple[str, str]:
    """Two promotions that run."""
    one, other = (states.start_execution(stateMachineArn=machine_arn, name=n, input="{}") for n in ("one", "other"))
    return one["executionArn"], other["executionArn"]


def test_a_candidate_belongs_to_one_promotion_even_where_two_promote_the_same_version(
    sagemaker: FakeSageMaker, states: Any, deployment: Deployment, executions: tuple[str, str]
) -> None:
    first, second = executions
    prepare(sagemaker, deployment, role_arn="arn:r", key_arn=KEY_ARN)
    deploy_candidate(sagemaker, states, deployment, execution_arn=first)
    with pytest.raises(PromotionBusy, match="InService for one: wait"):
        deploy_candidate(sagemaker, states, deployment, execution_arn=second)
    remove_candidate(sagemaker, deployment, execution_arn=second, failed=True)
    assert deployment.candidate in sagemaker.endpoints
    assert deployment.config in sagemaker.configs
    remove_candidate(sagemaker, deployment, execution_arn=first, failed=False)
    deploy_candidate(sagemaker, states, deployment, execution_arn=second)
    remove_candidate(sagemaker, deployment, execution_arn=second, failed=True)
    assert (sagemaker.endpoints, sagemaker.configs, sagemaker.models) == ({}, {}, {})


def test_two_that_make_the_candidate_at_once_are_one_that_waits(
    sagemaker: FakeSageMaker, states: Any, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = sagemaker.create_endpoint

    def second(**request: Any) -> None:
        create(**request)
        create(**request)

    monkeypatch.setattr(sagemaker, "create_endpoint", second)
    with pytest.raises(PromotionBusy, match="another promotion made"):
        deploy_candidate(sagemaker, states, deployment, execution_arn="arn:me")


@pytest.mark.parametrize("tagged", [True, False])
def test_a_candidate_whose_promotion_ended_is_removed(
    sagemaker: FakeSageMaker, states: Any, deployment: Deployment, executions: tuple[str, str], tagged: bool
) -> None:
    first, second = executions
    tags = [{"Key": OWNER_TAG, "Value": first}] if tagged else []
    sagemaker.create_endpoint(EndpointName=deployment.candidate, EndpointConfigName="another", Tags=tags)
    states.stop_execution(executionArn=first)
    with pytest.raises(PromotionBusy):
        deploy_candidate(sagemaker, states, deployment, execution_arn=second)
    deploy_candidate(sagemaker, states, deployment, execution_arn=second)
    assert sagemaker.endpoints[deployment.candidate]["EndpointConfigName"] == deployment.config


def test_a_live_endpoint_of_an_earlier_release_gets_the_tags_with_its_next_version(
    sagemaker: FakeSageMaker, deployment: Deployment
) -> None:
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="old", Tags=[{"Key": "team", "Value": "faces"}])
    deploy_live(sagemaker, FakeAlarms(), deployment)
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.tags[sagemaker.endpoints[GROUP]["EndpointArn"]]}
    assert tags == {"team": "faces", "stepforge:environment": "local", "stepforge:domain": "facial"}


def test_a_candidate_that_somebody_else_deleted_first_or_that_comes_up_is_waited_for(
    sagemaker: FakeSageMaker, states: Any, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.create_endpoint(EndpointName=deployment.candidate, EndpointConfigName=deployment.config)
    delete = sagemaker.delete_endpoint

    def second(*, EndpointName: str) -> None:
        delete(EndpointName=EndpointName)
        raise refusal("DeleteEndpoint", f'Could not find endpoint "{EndpointName}".')

    monkeypatch.setattr(sagemaker, "delete_endpoint", second)
    with pytest.raises(PromotionBusy):
        deploy_candidate(sagemaker, states, deployment, execution_arn="arn:me")
    deploy_candidate(sagemaker, states, deployment, execution_arn="arn:me")
    sagemaker.endpoints[deployment.candidate]["EndpointStatus"] = "Creating"
    with pytest.raises(PromotionBusy, match="is Creating"):
        remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=True)
    with pytest.raises(PromotionBusy, match="is Creating"):
        deploy_candidate(sagemaker, states, deployment, execution_arn="arn:another")
    assert deployment.candidate in sagemaker.endpoints


def test_an_approval_that_was_taken_back_meanwhile_leaves_the_live_endpoint(
    sagemaker: FakeSageMaker, deployment: Deployment
) -> None:
    sagemaker.packages[deployment.promotion.package_arn] |= {"ModelApprovalStatus": "Rejected"}
    with pytest.raises(ArtifactRefused, match="is Rejected by now"):
        deploy_live(sagemaker, FakeAlarms(), deployment)
    assert GROUP not in sagemaker.endpoints


@pytest.mark.parametrize("status", ["Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"])
def test_an_endpoint_in_motion_is_waited_for(sagemaker: FakeSageMaker, deployment: Deployment, status: str) -> None:
    sagemaker.endpoints[GROUP] = {"EndpointArn": "arn:e", "EndpointConfigName": "old", "EndpointStatus": status}
    with pytest.raises(PromotionBusy, match=status):
        deploy_live(sagemaker, FakeAlarms(), deployment)


def test_an_endpoint_that_rolled_itself_back_has_failed(sagemaker: FakeSageMaker, deployment: Deployment) -> None:
    sagemaker.endpoints[GROUP] = {
        "EndpointArn": "arn:e",
        "EndpointConfigName": "old",
        "EndpointStatus": "InService",
        "FailureReason": "alarm",
    }
    with pytest.raises(EndpointFailed, match="alarm"):
        endpoint_state(sagemaker, deployment, GROUP)
    del sagemaker.endpoints[GROUP]
    with pytest.raises(EndpointFailed, match="was deleted"):
        endpoint_state(sagemaker, deployment, GROUP)


def holds_to_the_api(operation: str, request: dict[str, Any], service: str = "sagemaker") -> None:
    from botocore.session import get_session
    from botocore.validate import validate_parameters

    validate_parameters(request, get_session().get_service_model(service).operation_model(operation).input_shape)


@pytest.mark.parametrize(
    ("rollout", "policy", "kind"),
    [
        (Rollout(), "BlueGreenUpdatePolicy", "ALL_AT_ONCE"),
        (Rollout(instances=3), "BlueGreenUpdatePolicy", "CANARY"),
        (Rollout(instances=3, strategy="rolling"), "RollingUpdatePolicy", ""),
        (Rollout(strategy="rolling"), "BlueGreenUpdatePolicy", "ALL_AT_ONCE"),
    ],
    ids=["one instance", "canary", "rolling", "one instance cannot roll"],
)
def test_every_deployment_is_turned_back_by_the_endpoints_alarm_which_is_made_once(
    sagemaker: FakeSageMaker,
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    rollout: Rollout,
    policy: str,
    kind: str,
) -> None:
    sagemaker.endpoints[GROUP] = {"EndpointArn": "arn:e", "EndpointConfigName": "old", "EndpointStatus": "InService"}
    seen: dict[str, Any] = {}
    monkeypatch.setattr(sagemaker, "update_endpoint", lambda **request: seen.update(request))
    alarms, topic = FakeAlarms(), "arn:aws:sns:us-east-1:123456789012:stepforge-dev-alerts"
    for _ in range(2):
        deploy_live(sagemaker, alarms, deployment, rollout.model_copy(update={"alarm_topic_arn": topic}))
    config = seen["DeploymentConfig"]
    assert config["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": f"{GROUP}-5xx"}]}
    assert config[policy].get("TrafficRoutingConfiguration", {}).get("Type", "") == kind
    holds_to_the_api("UpdateEndpoint", seen)
    (made,) = alarms.made
    holds_to_the_api("PutMetricAlarm", made, "cloudwatch")
    assert {"Name": "EndpointName", "Value": GROUP} in made["Dimensions"]
    assert made["AlarmActions"] == made["OKActions"] == [topic]


def test_an_alarm_that_somebody_made_stays_as_it_is(sagemaker: FakeSageMaker, deployment: Deployment) -> None:
    alarms = FakeAlarms(f"{GROUP}-5xx")
    deploy_live(sagemaker, alarms, deployment)
    assert alarms.made == []


def test_another_number_of_instances_is_another_configuration(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion
) -> None:
    one = verified(sagemaker, s3, promotion)
    three = verify(sagemaker, s3, promotion, FLEET.model_copy(update={"instances": 3}), poll_seconds=1)
    assert one.config != three.config
    prepare(sagemaker, three, role_arn="r", key_arn=KEY_ARN)
    assert sagemaker.configs[three.config]["ProductionVariants"][0]["InitialInstanceCount"] == 3


def test_what_serves_is_told_the_digest_that_its_weights_must_have(
    sagemaker: FakeSageMaker, deployment: Deployment, weights: ArtifactRef
) -> None:
    prepare(sagemaker, deployment, role_arn="arn:aws:iam::123456789012:role/serving", key_arn=KEY_ARN)
    made = sagemaker.models[deployment.model]
    holds_to_the_api("CreateModel", {"ModelName": deployment.model, **made})
    assert made["PrimaryContainer"]["Environment"] == {"STEPFORGE_MODEL_SHA256": weights.sha256}


def test_rolling_back_restores_what_served_before(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> None:
    sagemaker.endpoints[GROUP] = {"EndpointArn": "arn:e", "EndpointConfigName": "old", "EndpointStatus": "InService"}
    deployment = verified(sagemaker, s3, promotion)
    prepare(sagemaker, deployment, role_arn="arn:r", key_arn=KEY_ARN)
    deploy_live(sagemaker, FakeAlarms(), deployment)
    roll_back(sagemaker, deployment)
    remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=True)
    assert sagemaker.endpoints[GROUP]["EndpointConfigName"] == "old"
    assert (sagemaker.configs, sagemaker.models) == ({}, {})


def test_rolling_back_a_first_deployment_leaves_no_endpoint(sagemaker: FakeSageMaker, deployment: Deployment) -> None:
    deploy_live(sagemaker, FakeAlarms(), deployment)
    roll_back(sagemaker, deployment)
    roll_back(sagemaker, deployment)
    assert sagemaker.endpoints == {}


def test_a_deployed_version_serves_and_the_champion_before_it_is_archived(
    sagemaker: FakeSageMaker, promotion: Promotion
) -> None:
    serving = {"Stage": "Production", "StageStatus": "Serving"}
    old = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP, ModelApprovalStatus="Approved", ModelLifeCycle=serving
    )["ModelPackageArn"]
    stamp(sagemaker, promotion, "deployed", "it answers")
    assert sagemaker.packages[promotion.package_arn]["ModelLifeCycle"]["Stage"] == "Production"
    assert sagemaker.packages[old]["ModelLifeCycle"]["Stage"] == "Archived"


def test_a_refused_version_says_why_and_keeps_its_metadata(sagemaker: FakeSageMaker, promotion: Promotion) -> None:
    stamp(sagemaker, promotion, "refused", "model.bin can hold\na pickle" + "x" * 2000)
    package = sagemaker.packages[promotion.package_arn]
    assert package["ApprovalDescription"].startswith("promotion refused: model.bin can hold a pickle")
    assert len(package["ApprovalDescription"]) <= 1024
    properties = package["CustomerMetadataProperties"]
    assert PackageMetadata.of(properties) is not None
    assert (properties["promotion"], properties["promotion_event"]) == ("refused", "e" * 64)
    life = package["ModelLifeCycle"]
    assert (life["Stage"], life["StageStatus"]) == ("Development", "Refused")
    assert life["StageDescription"].startswith("model.bin can hold a pickle")


def test_the_bucket_of_an_artifact_is_the_one_its_address_names(weights: ArtifactRef) -> None:
    assert split_uri(weights.uri)[0] == BUCKET
