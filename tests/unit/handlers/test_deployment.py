"""What is served is what was approved, byte for byte, and answers as it did; anything else leaves the old model."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import PICKLES
from stepforge.contracts.names import split_uri
from stepforge.contracts.registry import PackageMetadata, Promotion
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.serving import Fleet, InvokeResponse
from stepforge.errors import ArtifactRefused, EndpointFailed, InvalidInput, PromotionBusy, SmokeFailed
from stepforge.machines.deployment import (
    OWNER_TAG,
    Deployment,
    Golden,
    check_weights,
    deploy_candidate,
    deploy_live,
    endpoint_state,
    golden,
    judge,
    prepare,
    remove_candidate,
    roll_back,
    serving_name,
    smoke,
    stamp,
    verify,
)
from stepforge.machines.rollout import Rollout
from tests.fakes import FakeAlarms, FakeSageMaker, refusal

from .conftest import BUCKET, IMAGE, KEY_ARN, put_artifact

GROUP = "stepforge-facial"
FLEET = Fleet(instance_type="ml.m5.large")
FILES = {"model.safetensors": b"weights", "config.json": b"{}"}
ROWS = [
    {"decoding": decoding, "prompt": f"p{n}", "completion": f"c{n}", "tokens": n + 1}
    for n in range(20)
    for decoding in ("greedy", "sampled")
]


@pytest.fixture
def weights(s3: Any) -> ArtifactRef:
    return put_artifact(s3, "srl-" + "a" * 12 + "-a0", "model", FILES)


@pytest.fixture
def promotion(sagemaker: FakeSageMaker, s3: Any, weights: ArtifactRef) -> Promotion:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    report = EvaluationReport(spec_sha256="0" * 64, model_sha256=weights.sha256, manifest_sha256="4" * 64, scores=())
    files = {"rows.ndjson": rows, "evaluation.json": canonical_json(report)}
    evaluation = put_artifact(s3, "evaluate-" + "a" * 12 + "-a0", "evaluation", files)
    metadata = PackageMetadata(
        pipeline_sha256="1" * 64,
        model_sha256=weights.sha256,
        evaluation_sha256=evaluation.sha256,
        evaluation_uri=evaluation.uri,
        dataset_sha256="4" * 64,
        training_job_arn="arn:j",
        domain="facial",
    )
    sagemaker.groups.add(GROUP)
    source = {"S3DataSource": {"S3Uri": weights.uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}
    arn = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties=metadata.properties(),
        InferenceSpecification={"Containers": [{"Image": IMAGE, "ModelDataSource": source}]},
    )["ModelPackageArn"]
    return Promotion(package_arn=arn, group=GROUP, version=1, event_id="e" * 64)


def verified(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> Deployment:
    return verify(sagemaker, s3, promotion, FLEET, poll_seconds=1)


@pytest.fixture
def deployment(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> Deployment:
    return verified(sagemaker, s3, promotion)


# Verification


def test_sound_weights_are_let_through(s3: Any, weights: ArtifactRef) -> None:
    check_weights(s3, weights.uri, weights.sha256)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_one_altered_byte_is_refused_and_its_file_named(s3: Any, weights: ArtifactRef, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FILES)))
    at = data.draw(st.integers(0, len(FILES[path]) - 1))
    altered = bytearray(FILES[path])
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    bucket, prefix = split_uri(weights.uri)
    s3.put_object(Bucket=bucket, Key=prefix + path, Body=bytes(altered))
    with pytest.raises(Exception, match=f"{path} has SHA-256"):
        check_weights(s3, weights.uri, weights.sha256)
    s3.put_object(Bucket=bucket, Key=prefix + path, Body=FILES[path])


@pytest.mark.parametrize("ending", PICKLES)
def test_a_pickle_is_refused_by_name_even_where_the_manifest_knows_it(s3: Any, ending: str) -> None:
    artifact = put_artifact(s3, "srl-" + "b" * 12 + "-a0", "model", {**FILES, f"deep/state{ending.upper()}": b"x"})
    with pytest.raises(ArtifactRefused, match=f"deep/state{ending.upper()}"):
        check_weights(s3, artifact.uri, artifact.sha256)


def test_a_file_that_was_added_or_lost_is_refused(s3: Any, weights: ArtifactRef) -> None:
    bucket, prefix = split_uri(weights.uri)
    s3.put_object(Bucket=bucket, Key=prefix + "tokenizer.json", Body=b"{}")
    with pytest.raises(ArtifactRefused, match=r"tokenizer\.json is not in the manifest"):
        check_weights(s3, weights.uri, weights.sha256)
    s3.delete_object(Bucket=bucket, Key=prefix + "tokenizer.json")
    s3.delete_object(Bucket=bucket, Key=prefix + "config.json")
    with pytest.raises(ArtifactRefused, match=r"config\.json is missing"):
        check_weights(s3, weights.uri, weights.sha256)


def test_an_artifact_without_safetensors_is_refused(s3: Any) -> None:
    artifact = put_artifact(s3, "srl-" + "c" * 12 + "-a0", "model", {"config.json": b"{}"})
    with pytest.raises(ArtifactRefused, match="no weights to serve"):
        check_weights(s3, artifact.uri, artifact.sha256)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ModelApprovalStatus": "Rejected"}, "is Rejected by now"),
        ({"CustomerMetadataProperties": {}}, "not registered by stepforge"),
    ],
    ids=["rejected", "foreign"],
)
def test_a_package_that_may_not_serve_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, change: dict[str, Any], reason: str
) -> None:
    sagemaker.packages[promotion.package_arn] |= change
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing", "does not exist"),
        ("altered", "has digest"),
        ("of other weights", "is of the model"),
        ("on other data", "is of the dataset"),
        ("without answers", "has no greedy row"),
    ],
)
def test_a_package_without_a_sound_evaluation_of_its_own_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, weights: ArtifactRef, what: str, reason: str
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    report = {"spec_sha256": "0" * 64, "model_sha256": weights.sha256, "manifest_sha256": "4" * 64, "scores": ()}
    rows = canonical_json(ROWS[0])
    if what == "of other weights":
        report["model_sha256"] = "9" * 64
    elif what == "on other data":
        report["manifest_sha256"] = "9" * 64
    elif what == "without answers":
        rows = canonical_json(ROWS[1])
    files = {"rows.ndjson": rows, "evaluation.json": canonical_json(EvaluationReport.model_validate(report))}
    evaluation = put_artifact(s3, "evaluate-" + "b" * 12 + "-a0", "evaluation", files)
    properties |= {"evaluation_uri": evaluation.uri, "evaluation_sha256": evaluation.sha256}
    if what == "missing":
        properties["evaluation_uri"] = f"s3://{BUCKET}/jobs/nowhere/"
    elif what == "altered":
        properties["evaluation_sha256"] = "8" * 64
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize("image", ["repository/serve@sha256:0", "repository/serve", "@sha256:" + "0" * 64])
def test_an_image_whose_digest_is_none_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, image: str
) -> None:
    sagemaker.packages[promotion.package_arn]["InferenceSpecification"]["Containers"][0]["Image"] = image
    with pytest.raises(ArtifactRefused, match="not pinned"):
        verified(sagemaker, s3, promotion)


def test_an_image_by_tag_is_refused(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> None:
    package = sagemaker.packages[promotion.package_arn]
    package["InferenceSpecification"]["Containers"][0]["Image"] = "repository/serve:latest"
    with pytest.raises(ArtifactRefused, match="not pinned"):
        verified(sagemaker, s3, promotion)


@given(st.from_regex(r"\Astepforge-[a-z0-9](-?[a-z0-9]){0,42}\Z"), st.integers(1, 99_999))
def test_a_serving_name_is_one_that_sagemaker_takes(group: str, version: int) -> None:
    promotion = Promotion(package_arn="arn", group=group, version=version, event_id="e" * 64)
    name = serving_name(promotion, "1" * 64, IMAGE, FLEET)
    assert len(name) <= 63
    assert "--" not in name
    assert name != serving_name(promotion, "2" * 64, IMAGE, FLEET)


# Endpoints


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
    alarms = FakeAlarms()
    for _ in range(2):
        deploy_live(sagemaker, alarms, deployment, rollout)
    config = seen["DeploymentConfig"]
    assert config["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": f"{GROUP}-5xx"}]}
    assert config[policy].get("TrafficRoutingConfiguration", {}).get("Type", "") == kind
    holds_to_the_api("UpdateEndpoint", seen)
    (made,) = alarms.made
    holds_to_the_api("PutMetricAlarm", made, "cloudwatch")
    assert {"Name": "EndpointName", "Value": GROUP} in made["Dimensions"]


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


# Smoke


GOLDEN = Golden(prompts=tuple("abcdefgh"), completions=tuple("ABCDEFGH"), max_new_tokens=8)
SHA = "2" * 64


@given(st.sets(st.integers(0, 7)))
def test_all_but_one_recorded_answer_must_come_back(wrong: set[int]) -> None:
    said = tuple("?" if n in wrong else want for n, want in enumerate(GOLDEN.completions))
    response = InvokeResponse(completions=said, model_sha256=SHA)
    if len(wrong) <= 1:
        assert judge("e", GOLDEN, response, expected_sha256=SHA).equal == 8 - len(wrong)
    else:
        with pytest.raises(SmokeFailed, match=f"{len(wrong)} of 8"):
            judge("e", GOLDEN, response, expected_sha256=SHA)


def test_the_right_answers_of_other_weights_are_refused() -> None:
    response = InvokeResponse(completions=GOLDEN.completions, model_sha256="9" * 64)
    with pytest.raises(SmokeFailed, match="serves the weights 9999"):
        judge("e", GOLDEN, response, expected_sha256=SHA)
    with pytest.raises(SmokeFailed, match="1 answers to 8 prompts"):
        judge("e", GOLDEN, InvokeResponse(completions=("A",), model_sha256=SHA), expected_sha256=SHA)


def test_golden_prompts_are_greedy_and_spread_over_the_evaluation(s3: Any, deployment: Deployment) -> None:
    found = golden(s3, deployment.evaluation)
    assert found.prompts == ("p0", "p2", "p4", "p6", "p8", "p10", "p12", "p14")
    assert found.max_new_tokens == 20


@pytest.mark.parametrize(
    "row", [b"[]", b"{", b'{"decoding": "greedy", "prompt": "p"}'], ids=["list", "cut off", "short"]
)
def test_an_evaluation_with_a_malformed_row_is_refused_and_not_tried_again(s3: Any, row: bytes) -> None:
    evaluation = put_artifact(s3, "evaluate-" + "c" * 12 + "-a0", "evaluation", {"rows.ndjson": row + b"\n"})
    with pytest.raises(InvalidInput, match="has a malformed row"):
        golden(s3, evaluation)


def test_an_evaluation_without_greedy_rows_cannot_vouch_for_a_model(s3: Any) -> None:
    rows = (json.dumps({**ROWS[1]}) + "\n").encode()
    evaluation = put_artifact(s3, "evaluate-" + "b" * 12 + "-a0", "evaluation", {"rows.ndjson": rows})
    with pytest.raises(InvalidInput, match="no greedy row"):
        golden(s3, evaluation)


class Runtime:
    """InvokeEndpoint that answers with `body`."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.request = json.loads(request["Body"])
        return {"Body": io.BytesIO(self.body)}

    class exceptions:
        class ModelError(Exception):
            pass


def test_smoke_asks_greedily_for_as_much_as_the_evaluation_did(s3: Any, deployment: Deployment) -> None:
    want = tuple(f"c{n}" for n in range(0, 16, 2))
    runtime = Runtime(canonical_json(InvokeResponse(completions=want, model_sha256=deployment.artifact.sha256)))
    assert smoke(runtime, s3, deployment, GROUP).equal == 8
    assert (runtime.request["temperature"], runtime.request["max_new_tokens"]) == (0.0, 20)
    with pytest.raises(SmokeFailed, match="something else"):
        smoke(Runtime(b"<html>"), s3, deployment, GROUP)


# Stamps


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
