"""Every value that AWS would refuse is told with what is allowed; what differs is told value by value."""

from __future__ import annotations

from typing import Any

import pytest

from stepforge.contracts.jobs import ArtifactRef, JobSpec, Resources
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.work import DatasetWork, LocalModel, SftWork
from stepforge.plans.differences import differences
from stepforge.plans.validation import LONGEST_RUNTIME_SECONDS, Problem, check_limits, check_request
from stepforge.submitting.submission import attempts, spec_request, training_request

from .cloud import ENVIRONMENT, PIPELINE


def request(**resources: Any) -> dict[str, Any]:
    spec = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)
    asked = spec_request(ENVIRONMENT, spec, Resources(**resources))
    attempt = attempts.attempt_at(asked, f"{asked.prefix}-a0", bucket=ENVIRONMENT.bucket, key_arn=ENVIRONMENT.key_arn)
    return training_request(ENVIRONMENT, asked, attempt)


def test_what_we_send_is_allowed(shape: Any) -> None:
    assert check_request(shape, request(spot=True)) == []
    assert check_limits(request(spot=True)) == []


def test_an_instance_type_that_does_not_exist_has_a_nearest_one(shape: Any) -> None:
    asked = request()
    asked["ResourceConfig"]["InstanceType"] = "ml.g5.xlage"
    (problem,) = check_request(shape, asked)
    assert (problem.field, problem.given) == ("ResourceConfig.InstanceType", "'ml.g5.xlage'")
    assert "'ml.g5.xlarge' is the nearest" in problem.remedy
    assert "more" in problem.allowed


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        ({"TrainingJobName": "-x"}, "TrainingJobName", "what matches"),
        ({"TrainingJobName": "a" * 64}, "TrainingJobName", "63 at most"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, "RetryStrategy.MaximumRetryAttempts", "30 or less"),
        ({"RetryStrategy": {"MaximumRetryAttempts": True}}, "RetryStrategy.MaximumRetryAttempts", "a number"),
        ({"RetryStrategy": {}}, "RetryStrategy.MaximumRetryAttempts", "a value"),
        ({"HyperParameters": {str(n): "x" for n in range(101)}}, "HyperParameters", "100 at most"),
        ({"HyperParameters": {"x": "y" * 2501}}, "HyperParameters.x", "2500 at most"),
        ({"Tags": [{"Key": "k", "Value": "ü!"}]}, "Tags[0].Value", "what matches"),
        ({"RolArn": "x"}, "RolArn", "RoleArn"),
        ({"RoleArn": 7}, "RoleArn", "text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_out_of_its_range_is_told_with_the_range(
    shape: Any, change: dict[str, Any], field: str, allowed: str
) -> None:
    found = check_request(shape, {**request(), **change})
    assert [problem.field for problem in found] == [field] * len(found)
    assert found[0].allowed.startswith(allowed)
    assert found[0].remedy


def test_limits_that_no_model_holds_are_checked_as_well() -> None:
    (runtime,) = check_limits(request(max_runtime_seconds=LONGEST_RUNTIME_SECONDS + 1))
    assert runtime.field == "StoppingCondition.MaxRuntimeInSeconds"
    plain = request()
    plain["StoppingCondition"] = {"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 99}
    assert [problem.allowed for problem in check_limits(plain)] == ["100 (MaxRuntimeInSeconds) or more"]


def test_a_problem_says_field_given_allowed_and_remedy() -> None:
    assert str(Problem("a.b", "3", "2 or less", "lower it")) == "a.b: given 3, allowed is 2 or less; lower it"


def test_equal_specs_differ_in_nothing() -> None:
    assert differences(PIPELINE, PIPELINE.model_copy()) == []


def test_a_stage_is_named_by_its_name_and_only_what_differs_is_shown() -> None:
    changed = PIPELINE.model_copy(
        update={"stages": (PIPELINE.stages[0], SftWork(steps=50)), "code": {**PIPELINE.code, "sft": "d" * 64}}
    )
    found = differences(PIPELINE, changed)
    assert [line for change in found for line in change.lines] == [
        "- stages.sft.steps: 30",
        "+ stages.sft.steps: 50",
        "- code.sft: cccccccccccc",
        "+ code.sft: dddddddddddd",
    ]


def test_a_stage_that_is_left_out_is_lines_of_one_sign() -> None:
    found = differences(PIPELINE, PIPELINE.model_copy(update={"stages": PIPELINE.stages[:1]}))
    lines = [line for change in found for line in change.lines if ".sft." in line]
    assert lines
    assert all(line.startswith("- stages.sft.") for line in lines)
    assert [change.field for change in found if change.after == ["base"]] == ["stages"]


def test_a_model_differs_by_its_digest_and_not_by_where_it_lies() -> None:
    def of(uri: str, sha: str) -> PipelineSpec:
        artifact = ArtifactRef(uri=uri, sha256=sha * 64)
        return PIPELINE.model_copy(update={"model": LocalModel(), "model_artifact": artifact})

    assert differences(of("s3://one/x/", "a"), of("s3://two/y/", "a")) == []
    assert [c.field for c in differences(of("s3://one/x/", "a"), of("s3://one/x/", "b"))] == ["model_artifact.sha256"]
