"""Registration: once for each model of a pipeline, waiting for a person, with all that a decision needs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters

from stepforge.contracts.base import canonical_json
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.registry import CHAMPION_GATE, ExternalLineage, PackageMetadata
from stepforge.contracts.reports import EvaluationReport, Interval, Score
from stepforge.finetune.registering import register_external
from stepforge.machines.failures import Failure
from stepforge.machines.packages import (
    Champion,
    Compared,
    compare_with_champion,
    find_champion,
    metadata_of,
    plan_champion,
    register,
)
from tests.fakes import TUNE, FakeSageMaker

from .conftest import IMAGE, outcome, put_artifact

GROUP = "stepforge-facial"


def evaluation(s3: Any, name: str, mean: float, model: str = "1") -> Any:
    value = Interval(mean=mean, low=mean - 0.05, high=mean + 0.05, count=100)
    report = EvaluationReport(
        spec_sha256="0" * 64,
        model_sha256=model * 64,
        manifest_sha256="2" * 64,
        scores=(Score(split="test_new", decoding="greedy", metric="accepted", value=value),),
    )
    rows = [
        {"record": f"r{n}", "split": "test_new", "decoding": "greedy", "completion": "c", "accepted": n < mean * 100}
        for n in range(100)
    ]
    files = {"evaluation.json": canonical_json(report), "rows.ndjson": b"\n".join(map(canonical_json, rows))}
    return outcome("evaluate", put_artifact(s3, name, "evaluation", files), name=name)


@pytest.fixture
def done(s3: Any, started: PipelineState) -> PipelineState:
    stages = (outcome("sft"), outcome("srl"))
    report = evaluation(s3, "evaluate-" + "a" * 12 + "-a0", 0.8)
    return started.model_copy(
        update={"dataset": outcome("dataset"), "gate": outcome("gate"), "stages": stages, "evaluation": report}
    )


def registered(sagemaker: FakeSageMaker, s3: Any, spec: PipelineSpec, state: PipelineState) -> Any:
    compared = compare_with_champion(sagemaker, s3, spec, state)
    return register(sagemaker, s3, spec, compared, image=IMAGE, instance_type="ml.m5.large")


def test_a_group_that_does_not_exist_has_no_champion_and_is_made(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    assert find_champion(sagemaker, GROUP) is None
    assert registered(sagemaker, s3, pipeline, done).version == 1
    assert sagemaker.groups == {GROUP}


def test_registering_twice_adopts_the_first(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    first, second = (registered(sagemaker, s3, pipeline, done) for _ in range(2))
    assert (first.package_arn, first.adopted, second.adopted) == (second.package_arn, False, True)
    assert sagemaker.calls.count("create_model_package") == 1


def test_another_model_of_the_same_pipeline_is_another_version(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    registered(sagemaker, s3, pipeline, done)
    last = done.stages[-1].model_copy(
        update={"artifact": done.stages[-1].artifact.model_copy(update={"sha256": "9" * 64})}
    )
    other = done.model_copy(update={"stages": (*done.stages[:-1], last)})
    assert registered(sagemaker, s3, pipeline, other).version == 2


def test_the_request_holds_to_the_api_and_waits_for_a_person(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    arn = registered(sagemaker, s3, pipeline, done).package_arn
    package = sagemaker.packages[arn]
    made_by_service = {"ModelPackageArn", "ModelPackageVersion", "LastModifiedTime"}
    request = {key: value for key, value in package.items() if key not in made_by_service}
    shape = get_session().get_service_model("sagemaker").operation_model("CreateModelPackage").input_shape
    validate_parameters(request, shape)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert PackageMetadata.of(package["CustomerMetadataProperties"]) is not None
    assert all(len(value) <= 256 for value in package["CustomerMetadataProperties"].values())
    card = json.loads(package["ModelCard"]["ModelCardContent"])
    assert set(card["model_overview"]) == {"model_creator", "model_artifact"}
    (metric,) = card["evaluation_details"][0]["metric_groups"][0]["metric_data"]
    assert (metric["name"], metric["value"], metric["type"]) == ("test_new greedy accepted", 0.8, "number")


def approve(sagemaker: FakeSageMaker, arn: str, **more: Any) -> None:
    sagemaker.packages[arn] |= {"ModelApprovalStatus": "Approved", **more}


def test_the_champion_is_what_serves_else_the_newest_approved(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    arns = []
    for digit in "345":
        last = done.stages[-1]
        last = last.model_copy(update={"artifact": last.artifact.model_copy(update={"sha256": digit * 64})})
        arns.append(
            registered(sagemaker, s3, pipeline, done.model_copy(update={"stages": (done.stages[0], last)})).package_arn
        )
    assert find_champion(sagemaker, GROUP) is None
    approve(sagemaker, arns[0])
    approve(sagemaker, arns[1])
    assert find_champion(sagemaker, GROUP)["ModelPackageArn"] == arns[1]  # type: ignore[index]
    approve(sagemaker, arns[0], ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    assert find_champion(sagemaker, GROUP)["ModelPackageArn"] == arns[0]  # type: ignore[index]


@pytest.mark.parametrize(("mean", "better"), [(0.95, True), (0.82, False), (0.5, False)])
def test_a_challenger_is_compared_with_the_recorded_evaluation_of_the_champion(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState, mean: float, better: bool
) -> None:
    champion = registered(sagemaker, s3, pipeline, done).package_arn
    approve(sagemaker, champion)
    challenger = done.model_copy(update={"evaluation": evaluation(s3, "evaluate-" + "b" * 12 + "-a0", mean, "7")})
    compared: Compared = compare_with_champion(sagemaker, s3, pipeline, challenger)
    assert (compared.comparison.better, compared.comparison.champion) == (better, champion)


def another(done: PipelineState, s3: Any, mean: float) -> PipelineState:
    """A challenger with other weights."""
    last = done.stages[-1].model_copy(
        update={"artifact": done.stages[-1].artifact.model_copy(update={"sha256": "7" * 64})}
    )
    report = evaluation(s3, "evaluate-" + "b" * 12 + "-a0", mean, "7")
    return done.model_copy(update={"stages": (done.stages[0], last), "evaluation": report})


def test_the_champion_is_evaluated_again_where_its_evaluation_was_another_one(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    challenger = another(done, s3, 0.9)
    assert plan_champion(sagemaker, s3, pipeline, challenger) == (None, None)
    approve(sagemaker, registered(sagemaker, s3, pipeline, done).package_arn)
    champion, job = plan_champion(sagemaker, s3, pipeline, challenger)
    assert champion is not None
    assert job is not None
    wanted = done.stages[-1].artifact
    assert (job.inputs["model"].sha256, job.inputs["data"], job.work) == (
        wanted.sha256, done.dataset.artifact, pipeline.evaluation,  # type: ignore[union-attr]
    )  # fmt: skip
    # The model that serves has nothing to be compared with.
    assert plan_champion(sagemaker, s3, pipeline, done)[1] is None


def test_a_champion_at_a_provider_is_compared_by_the_evaluation_it_was_registered_with(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    lineage = ExternalLineage(
        external_provider="openai", external_job="ftjob-1", external_model="ft:1", external_handle="ft:1",
        external_base="gpt", external_key="0" * 64, external_request_uri="s3://stepforge-dev/finetune/r.json",
        external_cost_usd="1.00",
    )  # fmt: skip
    theirs, _ = register_external(
        sagemaker, s3, group=pipeline.group, metadata=metadata_of(pipeline, done), lineage=lineage
    )
    approve(sagemaker, theirs.package_arn)
    challenger = another(done, s3, 0.95)
    assert plan_champion(sagemaker, s3, pipeline, challenger)[1] is None
    found = compare_with_champion(sagemaker, s3, pipeline, challenger).comparison
    assert (found.champion, found.better) == (theirs.package_arn, True)


def test_a_version_carries_the_champion_gates_verdict_wherever_its_model_is(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    def verdict(arn: str) -> str:
        return sagemaker.packages[arn]["CustomerMetadataProperties"][CHAMPION_GATE]

    arn = registered(sagemaker, s3, pipeline, done).package_arn
    assert verdict(arn) == "first"
    approve(sagemaker, arn)
    assert verdict(registered(sagemaker, s3, pipeline, another(done, s3, 0.95)).package_arn) == "better"
    for accepted, wanted in ((0.95, "better"), (0.2, "not better")):
        state = another(done, s3, accepted)
        pipeline_sha256 = str(len(wanted) % 10) * 64
        metadata = metadata_of(pipeline, state).model_copy(update={"pipeline_sha256": pipeline_sha256})
        theirs, _ = register_external(
            sagemaker, s3, group=pipeline.group, metadata=metadata, lineage=ExternalLineage.model_validate(TUNE)
        )
        assert verdict(theirs.package_arn) == wanted


def test_the_new_evaluation_decides_and_one_that_failed_is_said(
    sagemaker: FakeSageMaker, s3: Any, pipeline: PipelineSpec, done: PipelineState
) -> None:
    arn = registered(sagemaker, s3, pipeline, done).package_arn
    approve(sagemaker, arn)
    challenger = another(done, s3, 0.85)
    anew = evaluation(s3, "evaluate-" + "c" * 12 + "-a0", 0.4)
    found = compare_with_champion(sagemaker, s3, pipeline, challenger, Champion(package_arn=arn, evaluation=anew))
    assert found.comparison.better
    assert found.comparison.paired["test_new/greedy"].mean == pytest.approx(0.45)
    failed = Champion(package_arn=arn, failure=Failure(error="CapacityError", cause="no instance was free"))
    said = compare_with_champion(sagemaker, s3, pipeline, challenger, failed).comparison
    assert said.reasons[0] == (
        "the champion could not be evaluated on this test data: CapacityError: no instance was free"
    )
