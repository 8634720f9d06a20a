"""What is asked of a model is checked before an endpoint is, what it refuses is unwrapped, and states have names."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from stepforge.connection import Connection
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import PROMOTION, PROMOTION_EVENT
from stepforge.contracts.reports import Interval, Score
from stepforge.errors import EnvironmentUnavailable, InvalidInput, StepforgeError, UnknownName
from stepforge.machines.cards import metrics_of, scores_of
from stepforge.registry import Package, Registry
from tests.fakes import TUNE, FakeSageMaker, refusal

GROUP = "stepforge-facial"
NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("prompts", "options", "field"),
    [
        ([""], {}, "prompt"),
        ([], {}, "records"),
        (["x"] * 257, {}, "records"),
        (["x"], {"temperature": 11.0}, "temperature"),
        (["x"], {"temperature": float("nan")}, "temperature"),
        (["x"], {"seed": -1}, "seed"),
        (["x"], {"seed": 2**40}, "seed"),
        (["x"], {"max_new_tokens": 0}, "max_new_tokens"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_no_endpoint_answers_is_refused_naming_the_field(prompts: list, options: dict, field: str) -> None:
    registry = Registry(Connection("test", boto3.Session(region_name="us-east-1")))
    with pytest.raises(InvalidInput, match=f"this cannot be asked: field '.*{field}"):
        registry.predict("facial", prompts, **options)


class ModelError(ClientError):
    """As InvokeEndpoint has it: what the container said is wrapped into the message."""

    def __init__(self, status: int, said: str) -> None:
        message = f'Received client error ({status}) from primary with message "{said}"'
        about: Any = {"Error": {"Code": "ModelError", "Message": message}}
        super().__init__({**about, "OriginalStatusCode": status, "OriginalMessage": said}, "InvokeEndpoint")


class Runtime:
    exceptions = SimpleNamespace(ModelError=ModelError, ClientError=ClientError)

    def __init__(self, answer: ClientError | bytes) -> None:
        self.answer = answer

    def invoke_endpoint(self, **_: Any) -> dict[str, Any]:
        if isinstance(self.answer, ClientError):
            raise self.answer
        return {"Body": BytesIO(self.answer)}


def registry_of(**clients: Any) -> Registry:
    return Registry(
        SimpleNamespace(
            name="local",
            environment=SimpleNamespace(serve_mode="realtime"),
            client=lambda service: clients[service.replace("-", "_")],
        )
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "said", "error", "message"),
    [
        (400, json.dumps({"error": "'x' is no prompt: write it so"}), InvalidInput, "^'x' is no prompt: write it so$"),
        (400, '{"error": "cut o', InvalidInput, '^{"error": "cut o$'),
        (400, "another container's words", InvalidInput, "^another container's words$"),
        (500, '{"error": "it broke"}', EnvironmentUnavailable, "'stepforge-facial' failed to answer: it broke$"),
    ],
    ids=["ours", "cut", "foreign", "defect"],
)
def test_what_a_container_says_is_told_without_its_wrapping(
    status: int, said: str, error: type[StepforgeError], message: str
) -> None:
    registry = registry_of(sagemaker=FakeSageMaker(), sagemaker_runtime=Runtime(ModelError(status, said)))
    with pytest.raises(error, match=message):
        registry.predict("facial", ["x"])


# ── States and decisions ─────────────────────────────────────────────────────────────────────────


def package(approval: str, stage: str = "Development", promotion: str | None = None) -> Package:
    return Package(
        arn="arn",
        group=GROUP,
        version=1,
        approval=approval,  # type: ignore[arg-type]
        stage=stage,
        created=NOW,
        modified=NOW,
        reason="said by a person",
        stage_reason="by version 2",
        metadata={} if promotion is None else {PROMOTION: promotion},
    )


@pytest.mark.parametrize(
    ("given", "state", "why"),
    [
        (package("PendingManualApproval"), "PendingManualApproval", "said by a person"),
        (package("Approved"), "Approved", "said by a person"),
        (package("Approved", "Production", "deployed"), "Production", "said by a person"),
        (package("Rejected", "Production", "deployed"), "Production, though Rejected by now", "said by a person"),
        (
            replace(package("Approved", "Production", "deployed"), endpoint_gone=True),
            "Production, but its endpoint is gone",
            "said by a person",
        ),
        (package("Approved", "Archived", "deployed"), "superseded", "by version 2"),
        (package("Approved", "Archived", "failed"), "Approved, promotion failed", "said by a person"),
        (package("Approved", "Development", "refused"), "Approved, promotion refused", "said by a person"),
        (package("Rejected", "Archived", "deployed"), "rejected", "said by a person"),
        (package("Approved", "Staging"), "Approved, in Staging", "said by a person"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_state_has_a_name_and_its_reason(given: Package, state: str, why: str) -> None:
    assert (given.state, given.why) == (state, why)


class OneExecution:
    """A promotion of the approval `e` that started before its package was last changed."""

    def list_executions(self, **_: Any) -> dict[str, Any]:
        return {"executions": [{"executionArn": "arn:x:r1", "startDate": NOW - timedelta(seconds=9)}]}

    def describe_execution(self, **_: Any) -> dict[str, Any]:
        asked = json.dumps({"package_arn": "arn", "event_id": "e"})
        return {**self.list_executions()["executions"][0], "name": "r1", "status": "RUNNING", "input": asked}


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({PROMOTION_EVENT: "e"}, True),
        ({PROMOTION_EVENT: "another"}, False),
        ({PROMOTION_EVENT: "e", PROMOTION: "failed"}, False),
        ({}, False),
    ],
    ids=["tried now", "another is tried", "it has ended", "none is tried"],
)
def test_a_promotion_is_found_though_its_own_stamp_changed_the_package(metadata: dict[str, str], found: bool) -> None:
    environment = SimpleNamespace(machines={"promote": "arn:m"})
    connection = SimpleNamespace(environment=environment, client=lambda service: OneExecution())
    given = replace(package("Approved", "Staging"), metadata=metadata)
    assert (Registry(connection).promotion(given) is not None) == found  # type: ignore[arg-type]


class OneVersion:
    """A registry of one version in the given state."""

    def __init__(self, **described: Any) -> None:
        self.sagemaker = FakeSageMaker()
        self.sagemaker.groups.add(GROUP)
        self.arn = self.sagemaker.create_model_package(
            ModelPackageGroupName=GROUP, CreationTime=NOW, LastModifiedTime=NOW, **described
        )["ModelPackageArn"]
        self.registry = registry_of(sagemaker=self.sagemaker)

    @property
    def updates(self) -> int:
        return self.sagemaker.calls.count("update_model_package")


def test_a_rejected_version_is_approved_only_on_purpose() -> None:
    held = OneVersion(ModelApprovalStatus="Rejected", ApprovalDescription="worse on new kinds")
    with pytest.raises(InvalidInput, match=r"facial/1 was rejected \(worse on new kinds\): .* add --yes"):
        held.registry.approve("facial")
    assert held.updates == 0
    assert held.registry.approve("facial", though_rejected=True).approval == "Approved"


@pytest.mark.parametrize(
    ("described", "updates"),
    [
        ({"ModelLifeCycle": {"Stage": "Production"}, "CustomerMetadataProperties": {PROMOTION: "deployed"}}, 0),
        ({"ModelLifeCycle": {"Stage": "Development"}}, 0),
        ({"ModelLifeCycle": {"Stage": "Archived"}, "CustomerMetadataProperties": {PROMOTION: "deployed"}}, 2),
        ({"ModelLifeCycle": {"Stage": "Development"}, "CustomerMetadataProperties": {PROMOTION: "failed"}}, 2),
    ],
    ids=["serves", "under-way", "superseded", "failed"],
)
def test_an_approved_version_is_promoted_again_where_it_does_not_serve(described: dict, updates: int) -> None:
    held = OneVersion(ModelApprovalStatus="Approved", **described)
    held.sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="c")
    assert held.registry.approve("facial/1").approval == "Approved"
    assert held.updates == updates


@pytest.mark.parametrize("status", [None, "Failed", "Deleting", "InService", "Updating"])
def test_a_version_in_production_is_promoted_again_where_its_endpoint_is_gone(status: str | None) -> None:
    life = {"ModelLifeCycle": {"Stage": "Production"}}
    held = OneVersion(ModelApprovalStatus="Approved", CustomerMetadataProperties={PROMOTION: "deployed"}, **life)
    if status:
        held.sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="c")
        held.sagemaker.endpoints[GROUP]["EndpointStatus"] = status
    serves = status in ("InService", "Updating")
    assert held.registry.get("facial/1").serving is serves
    assert held.registry.approve("facial/1").approval == "Approved"
    assert held.updates == (0 if serves else 2)


def test_a_providers_model_needs_no_endpoint_of_ours() -> None:
    held = OneVersion(
        ModelApprovalStatus="Approved",
        ModelLifeCycle={"Stage": "Production"},
        CustomerMetadataProperties=TUNE,
    )
    assert held.registry.get("facial/1").serving


def test_an_empty_group_says_what_makes_a_model() -> None:
    sagemaker = FakeSageMaker()
    sagemaker.groups.add(GROUP)
    with pytest.raises(InvalidInput, match="no model of 'facial' is registered: `stepforge run train --domain facial`"):
        registry_of(sagemaker=sagemaker).get("facial")


def test_other_errors_of_a_cloud_are_not_taken_for_an_answer() -> None:
    nothing = Runtime(refusal("InvokeEndpoint", "not found"))
    sagemaker = FakeSageMaker()
    with pytest.raises(UnknownName, match="unknown model 'facial': There are none"):
        registry_of(sagemaker_runtime=nothing, sagemaker=sagemaker).predict("facial", ["x"])
    sagemaker.groups.add(GROUP)
    with pytest.raises(InvalidInput, match="approve a version first"):
        registry_of(sagemaker_runtime=nothing, sagemaker=sagemaker).predict("facial", ["x"])
    with pytest.raises(ClientError):
        registry_of(
            sagemaker_runtime=Runtime(refusal("InvokeEndpoint", "no", "AccessDenied")), sagemaker=sagemaker
        ).predict("facial", ["x"])


def test_a_refusal_that_quotes_a_long_prompt_is_one_short_sentence() -> None:
    said = json.dumps({"error": f"unknown words in {'x ' * 25_000!r}\nleave them out"})
    clients = {"sagemaker_runtime": Runtime(ModelError(400, said)), "sagemaker": FakeSageMaker()}
    with pytest.raises(InvalidInput) as refused:
        registry_of(**clients).predict("facial", ["x " * 25_000])
    text = str(refused.value)
    assert (len(text) < 420, text.count("\n")) == (True, 0)
    assert text.startswith("unknown words in")
    assert text.endswith("leave them out")


@pytest.mark.parametrize("domain", ["./facial", "nope/../facial"])
def test_what_is_no_domain_is_not_asked_as_one(domain: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a domain's name"):
        registry_of(sagemaker_runtime=Runtime(b"")).predict(domain, ["x"])


def test_scores_come_out_of_a_card_as_they_were_put_in() -> None:
    value = Interval(mean=0.123456789, low=0.01234, high=1.0, count=20)
    put = [
        Score(split=split, decoding="sampled", metric=metric, value=value)
        for split in TEST_SPLITS
        for metric in ("accepted", "pass@4")
    ]
    details = {"metric_groups": [{"name": "scores", "metric_data": metrics_of(put)}]}
    found = scores_of({"ModelCardContent": json.dumps({"evaluation_details": [details]})})
    assert found is not None
    rounded = value.model_copy(update={"low": 0.0123})
    assert [score.value for score in found.scores] == [rounded] * 6
    assert found.score("test_new", "sampled", "pass@4") == rounded


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"evaluation_details": []}', '{"evaluation_details": [7]}',
     '{"evaluation_details": [{"metric_groups": [{"metric_data": []}]}]}',
     '{"evaluation_details": [{"metric_groups": [{"metric_data": [{"name": "accuracy", "value": 1}]}]}]}',
     '{"evaluation_details": [{"metric_groups": [{"metric_data": [{"name": "a b c", "notes": "", "value": 1}]}]}]}'],
)  # fmt: skip
def test_a_card_of_somebody_else_has_no_scores(content: str) -> None:
    assert scores_of({"ModelCardContent": content}) is None
    assert scores_of({}) is None
