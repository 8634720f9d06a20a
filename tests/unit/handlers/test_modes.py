"""Asynchronous endpoints and components are promoted, smoke-tested, rolled back and removed as endpoints are."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from pydantic import ValidationError

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.registry import Promotion
from stepforge.contracts.serving import Answers, Fleet, InvokeRequest, InvokeResponse, Prompt, Share
from stepforge.errors import EndpointFailed, EnvironmentUnavailable, InvalidInput, PromotionBusy, SmokeFailed
from stepforge.machines.deployment import (
    Deployment,
    deploy_candidate,
    deploy_live,
    endpoint_state,
    prepare,
    remove_abandoned,
    remove_candidate,
    remove_empty,
    roll_back,
    serving_name,
    smoke,
    verify,
)
from stepforge.machines.deployment._surfaces import component_request, config_request, cost_tags
from stepforge.machines.invoking import Target, invoke
from stepforge.machines.rollout import Rollout, component_guardrails
from tests.fakes import FakeAlarms, FakeSageMaker

from .conftest import BUCKET, IMAGE, KEY_ARN
from .promoted import GROUP

TOPIC = "arn:aws:sns:us-east-1:123456789012:answers"
REALTIME = Fleet(instance_type="ml.g5.xlarge")
LATER = Fleet(
    instance_type="ml.g5.xlarge", mode="async", answers=Answers(bucket=BUCKET, success_topic=TOPIC, error_topic=TOPIC)
)
SHARED = Fleet(instance_type="ml.m5.large", mode="components", share=Share(cpus=0.5, accelerators=1, memory_mb=512))


def verified(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, fleet: Fleet) -> Deployment:
    found = verify(sagemaker, s3, promotion, fleet, poll_seconds=1)
    prepare(sagemaker, found, role_arn="arn:aws:iam::123456789012:role/serving", key_arn=KEY_ARN)
    return found


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateEndpointConfig", config_request("v", REALTIME, key_arn=KEY_ARN)),
        ("CreateEndpointConfig", config_request("v", LATER, key_arn=KEY_ARN)),
        ("CreateEndpointConfig", config_request("v", SHARED, key_arn=KEY_ARN, role_arn="arn:aws:iam::1:role/serving")),
        ("CreateInferenceComponent", {**component_request("c", "v", "e", SHARED), "Tags": cost_tags(GROUP)}),
        (
            "UpdateInferenceComponent",
            {"InferenceComponentName": "c", "DeploymentConfig": component_guardrails("a", Rollout())},
        ),
    ],
    ids=["realtime", "async", "components", "component", "rolling"],
)
def test_what_is_asked_of_sagemaker_has_the_shape_that_botocore_has(operation: str, request_: dict[str, Any]) -> None:
    shape = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation).input_shape
    assert not ParamValidator().validate(request_, shape).has_errors()


class Recording:
    """Passes every call on, and keeps those that make something."""

    def __init__(self, sagemaker: FakeSageMaker) -> None:
        self._sagemaker, self.made = sagemaker, []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._sagemaker, name)

        def recorded(**request: Any) -> Any:
            if name.startswith("create_"):
                self.made.append((name, request))
            return call(**request)

        return recorded


@pytest.mark.parametrize("fleet", [REALTIME, LATER, SHARED], ids=lambda fleet: fleet.mode)
@pytest.mark.parametrize(("group", "environment"), [(GROUP, "local"), ("stepforge-dev---facial", "dev")])
def test_all_that_is_made_to_serve_carries_the_tags_that_the_budget_counts(
    sagemaker: FakeSageMaker, states: Any, deployment: Deployment, fleet: Fleet, group: str, environment: str
) -> None:
    where = deployment.promotion.model_copy(update={"group": group})
    names = {"promotion": where, "endpoint": group, "candidate": f"{group}-candidate", "fleet": fleet}
    deployment, seen = deployment.model_copy(update=names), Recording(sagemaker)
    prepare(seen, deployment, role_arn="arn:aws:iam::123456789012:role/serving", key_arn=KEY_ARN)
    if fleet.mode == "components":
        with pytest.raises(PromotionBusy, match="being created"):
            deploy_candidate(seen, states, deployment, execution_arn="arn:me")
    deploy_candidate(seen, states, deployment, execution_arn="arn:me")
    deploy_live(seen, FakeAlarms(), deployment)
    kinds = ["model", "endpoint_config", "endpoint"]
    kinds += ["inference_component"] * 2 if fleet.mode == "components" else ["endpoint"]
    assert [name for name, _ in seen.made] == [f"create_{kind}" for kind in kinds]
    for name, request in seen.made:
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        assert tags.items() >= {"stepforge:environment": environment, "stepforge:domain": "facial"}.items(), name


def test_an_asynchronous_endpoint_writes_with_the_key_and_tells_the_topics_that_are_named() -> None:
    config = config_request("v", LATER, key_arn=KEY_ARN)["AsyncInferenceConfig"]
    assert config["OutputConfig"] == {
        "S3OutputPath": f"s3://{BUCKET}/inference/answers",
        "S3FailurePath": f"s3://{BUCKET}/inference/failures",
        "KmsKeyId": KEY_ARN,
        "NotificationConfig": {"SuccessTopic": TOPIC, "ErrorTopic": TOPIC},
    }
    assert config["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 4}
    silent = LATER.model_copy(update={"answers": Answers(bucket=BUCKET)})
    config = config_request("v", silent, key_arn=KEY_ARN)["AsyncInferenceConfig"]
    assert "NotificationConfig" not in config["OutputConfig"]


def test_what_a_fleet_is_told_of_another_mode_is_refused() -> None:
    for fields in ({"mode": "async"}, {"mode": "components", "answers": LATER.answers}, {"share": SHARED.share}):
        with pytest.raises(ValidationError, match="does not go with these"):
            Fleet(instance_type="ml.m5.large", **fields)


def test_a_version_has_another_name_in_each_mode_and_with_other_settings_of_it(promotion: Promotion) -> None:
    other = LATER.model_copy(update={"answers": Answers(bucket=BUCKET, max_concurrent=9)})
    names = {serving_name(promotion, "1" * 64, IMAGE, fleet) for fleet in (REALTIME, LATER, other, SHARED)}
    assert len(names) == 4


def test_a_live_endpoint_of_another_mode_is_told_with_the_remedy(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion
) -> None:
    live = {"EndpointName": GROUP, "EndpointArn": "arn:e", "EndpointConfigName": "old", "EndpointStatus": "InService"}
    sagemaker.endpoints[GROUP] = {**live, "AsyncInferenceConfig": {}}
    with pytest.raises(
        EndpointFailed, match=r"serves in the mode 'async', and the environment's is 'realtime'.*delete"
    ):
        verify(sagemaker, s3, promotion, REALTIME, poll_seconds=1)
    assert verify(sagemaker, s3, promotion, LATER, poll_seconds=1).previous_config == "old"
    sagemaker.endpoints[GROUP] = live
    with pytest.raises(EndpointFailed, match="'realtime', and the environment's is 'components'"):
        verify(sagemaker, s3, promotion, SHARED, poll_seconds=1)


# Components


def up(sagemaker: FakeSageMaker, states: Any, deployment: Deployment, arn: str = "arn:me") -> None:
    """The endpoint comes first: the step is asked again when it is there."""
    if GROUP not in sagemaker.endpoints:
        with pytest.raises(PromotionBusy, match="is being created"):
            deploy_candidate(sagemaker, states, deployment, execution_arn=arn)
    deploy_candidate(sagemaker, states, deployment, execution_arn=arn)


def test_candidate_and_champion_are_components_of_one_endpoint(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    deployment = verified(sagemaker, s3, promotion, SHARED)
    for _ in range(2):
        up(sagemaker, states, deployment)
        assert endpoint_state(sagemaker, deployment, deployment.candidate) == "ready"
        deploy_live(sagemaker, FakeAlarms(), deployment)
        assert endpoint_state(sagemaker, deployment, deployment.endpoint) == "ready"
        assert set(sagemaker.endpoints) == {GROUP}
        assert set(sagemaker.components) == {GROUP, f"{GROUP}-candidate"}
        remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=False)
        assert set(sagemaker.components) == {GROUP}
    (config,) = sagemaker.configs.values()
    assert config["EnableNetworkIsolation"] is True
    assert verify(sagemaker, s3, promotion, SHARED, poll_seconds=1).config == deployment.config


def test_a_component_is_replaced_behind_an_alarm_of_its_own_and_rolled_back(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    first = verified(sagemaker, s3, promotion, SHARED)
    up(sagemaker, states, first)
    deploy_live(sagemaker, FakeAlarms(), first)
    next_ = promotion.model_copy(update={"version": 2})
    second = verified(sagemaker, s3, next_, SHARED)
    assert second.previous_config == first.config
    alarms = FakeAlarms()
    deploy_live(sagemaker, alarms, second, Rollout(bake_seconds=90))
    found = sagemaker.components[GROUP]
    assert found["Specification"]["ModelName"] == second.config
    assert found["DeploymentConfig"]["RollingUpdatePolicy"]["WaitIntervalInSeconds"] == 90
    (alarm,) = alarms.made
    assert alarm["Dimensions"] == [{"Name": "InferenceComponentName", "Value": GROUP}]
    roll_back(sagemaker, second)
    assert sagemaker.components[GROUP]["Specification"]["ModelName"] == first.config
    remove_candidate(sagemaker, second, execution_arn="arn:me", failed=True)
    assert set(sagemaker.models) == {first.model}
    assert GROUP in sagemaker.endpoints


def test_a_first_version_that_fails_leaves_no_endpoint_that_is_billed(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    deployment = verified(sagemaker, s3, promotion, SHARED)
    up(sagemaker, states, deployment)
    deploy_live(sagemaker, FakeAlarms(), deployment)
    roll_back(sagemaker, deployment)
    sagemaker.components["another"] = {"InferenceComponentName": "another", "EndpointName": GROUP}
    with pytest.raises(PromotionBusy, match="another still goes"):
        remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=True)
    del sagemaker.components["another"]
    for _ in range(2):
        remove_candidate(sagemaker, deployment, execution_arn="arn:me", failed=True)
        assert (sagemaker.components, sagemaker.endpoints, sagemaker.configs, sagemaker.models) == ({}, {}, {}, {})


def test_other_instances_and_an_endpoint_that_failed_come_before_a_component(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    up(sagemaker, states, verified(sagemaker, s3, promotion, SHARED))
    del sagemaker.components[f"{GROUP}-candidate"]
    larger = verified(sagemaker, s3, promotion, SHARED.model_copy(update={"instance_type": "ml.m5.xlarge"}))
    with pytest.raises(PromotionBusy, match="gets other instances"):
        deploy_candidate(sagemaker, states, larger, execution_arn="arn:me")
    deploy_candidate(sagemaker, states, larger, execution_arn="arn:me")
    del sagemaker.components[f"{GROUP}-candidate"]
    sagemaker.endpoints[GROUP] |= {"EndpointStatus": "Failed", "FailureReason": "no capacity"}
    with pytest.raises(EndpointFailed, match="no capacity"):
        deploy_candidate(sagemaker, states, larger, execution_arn="arn:me")
    assert sagemaker.endpoints == {}


def test_the_sweep_removes_a_component_whose_promotion_was_stopped(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    up(sagemaker, states, verified(sagemaker, s3, promotion, SHARED), "")
    assert remove_abandoned(sagemaker, states, GROUP, SHARED)
    assert sagemaker.components == {}
    assert not remove_abandoned(sagemaker, states, GROUP, SHARED)


def test_an_endpoint_that_no_component_is_left_on_goes_too(
    sagemaker: FakeSageMaker, states: Any, s3: Any, promotion: Promotion
) -> None:
    up(sagemaker, states, verified(sagemaker, s3, promotion, SHARED), "")
    assert not remove_empty(sagemaker, GROUP, SHARED, idle=lambda: True)
    assert remove_abandoned(sagemaker, states, GROUP, SHARED)
    assert not remove_empty(sagemaker, GROUP, SHARED, idle=lambda: False)
    sagemaker.endpoints[GROUP]["EndpointStatus"] = "Creating"
    assert not remove_empty(sagemaker, GROUP, SHARED, idle=lambda: True)
    sagemaker.endpoints[GROUP]["EndpointStatus"] = "InService"
    assert remove_empty(sagemaker, GROUP, SHARED, idle=lambda: True)
    assert (sagemaker.endpoints, sagemaker.configs) == ({}, {})
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="of another mode")
    assert not remove_empty(sagemaker, GROUP, SHARED, idle=lambda: True)
    assert not remove_empty(sagemaker, GROUP, REALTIME, idle=lambda: True)


# Asking


class Runtime:
    """An endpoint of any mode that answers as it was asked, into the bucket where it is asynchronous."""

    class exceptions:
        ModelError = ClientError

    def __init__(self, s3: Any, body: bytes, failure: bytes = b"") -> None:
        self.s3, self.body, self.failure, self.asked = s3, body, failure, []

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        return {"Body": io.BytesIO(self.body)}

    def invoke_endpoint_async(self, **request: Any) -> dict[str, Any]:
        key = request["InputLocation"].removeprefix(f"s3://{BUCKET}/")
        self.asked.append({**request, "body": self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()})
        name = "failed" if self.failure else "answered"
        written = {f"failures/{name}": self.failure, f"answers/{name}": self.body}
        for path, body in written.items():
            if body:
                self.s3.put_object(Bucket=BUCKET, Key=f"inference/{path}", Body=body)
        stem = f"s3://{BUCKET}/inference"
        return {"OutputLocation": f"{stem}/answers/{name}", "FailureLocation": f"{stem}/failures/{name}"}


ASKED = InvokeRequest(records=(Prompt(prompt="p"),))


def test_an_asynchronous_answer_is_looked_for_where_the_endpoint_said(s3: Any) -> None:
    runtime, target = Runtime(s3, b"answer"), Target(GROUP, bucket=BUCKET)
    assert invoke(runtime, s3, target, ASKED, timeout_seconds=30) == b"answer"
    (asked,) = runtime.asked
    assert (json.loads(asked["body"])["records"], asked["InvocationTimeoutSeconds"]) == ([{"prompt": "p"}], 30)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (b'Received client error (400) from primary with message "no prompt"', InvalidInput, "no prompt"),
        (b"Received server error (500) from primary", EnvironmentUnavailable, "failed to answer: Received server"),
        (b"", EnvironmentUnavailable, "not answered within 0 s: the answer will lie at s3://.*/answers/answered"),
    ],
    ids=["refused", "failed", "late"],
)
def test_what_becomes_of_an_asynchronous_request_is_told(s3: Any, failure: bytes, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        invoke(Runtime(s3, b"", failure), s3, Target(GROUP, bucket=BUCKET), ASKED, timeout_seconds=0.2)


def test_smoke_asks_in_the_mode_of_the_deployment(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, weights: ArtifactRef
) -> None:
    want = tuple(f"c{n}" for n in range(0, 16, 2))
    for fleet in (REALTIME, LATER, SHARED):
        deployment = verify(sagemaker, s3, promotion, fleet, poll_seconds=1)
        answer = InvokeResponse(completions=want, model_sha256=weights.sha256)
        runtime = Runtime(s3, canonical_json(answer))
        assert smoke(runtime, s3, deployment, deployment.candidate).equal == 8
        asked = SimpleNamespace(**{"InferenceComponentName": None, **runtime.asked[0]})
        shared = fleet is SHARED
        assert asked.EndpointName == (GROUP if shared else f"{GROUP}-candidate")
        assert asked.InferenceComponentName == (f"{GROUP}-candidate" if shared else None)
    with pytest.raises(SmokeFailed, match="failed to answer: Received client error"):
        smoke(Runtime(s3, b"", b"Received client error (400)"), s3, verify(
            sagemaker, s3, promotion, LATER, poll_seconds=1), GROUP)  # fmt: skip
