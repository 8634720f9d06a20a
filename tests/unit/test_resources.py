"""What jobs run on: the bounds are the API's, and what cannot work is refused before anything is sent."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.model import Shape
from botocore.session import get_session
from pydantic import ValidationError

from stepforge.cli import main
from stepforge.contracts import resources as limits
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.names import MACHINES
from stepforge.contracts.resources import Resources, Vpc, check_hosts
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import InvalidInput, UnknownName
from stepforge.recipes import load_recipe

DIGEST = "@sha256:" + "0" * 64
ENVIRONMENT = Environment(
    name="dev",
    bucket="a-bucket",
    key_arn="arn:aws:kms:us-east-1:123456789012:key/0",
    training_role_arn="r",
    serving_role_arn="r",
    machines=dict.fromkeys(MACHINES, "m"),
    images={"train": f"repository{DIGEST}", "serve": f"repository{DIGEST}"},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
    instance_types={"train": "ml.m5.large"},
)


@pytest.fixture(scope="module")
def api() -> Any:
    return get_session().get_service_model("sagemaker")


def bounds(shape: Shape) -> tuple[Any, Any]:
    return shape.metadata.get("min"), shape.metadata.get("max")


def test_no_bound_is_wider_than_the_one_of_the_api(api: Any) -> None:
    assert bounds(api.shape_for("KeepAlivePeriodInSeconds"))[1] == limits.MOST_KEEP_ALIVE_SECONDS
    assert bounds(api.shape_for("MaximumRetryAttempts")) == (1, limits.MOST_RETRIES)
    assert bounds(api.shape_for("InstancePreferenceList")) == (1, limits.MOST_TYPES)
    for ours, theirs in (("subnets", "Subnets"), ("security_groups", "VpcSecurityGroupIds")):
        (least,), (most,) = (
            [getattr(m, f"{way}_length") for m in Vpc.model_fields[ours].metadata if hasattr(m, f"{way}_length")]
            for way in ("min", "max")
        )
        assert (least, most) == bounds(api.shape_for(theirs))
        assert api.shape_for(theirs).member.metadata == {"max": 32, "min": 0, "pattern": "[-0-9a-zA-Z]+"}
    assert api.shape_for("KmsKeyId").metadata == {"max": 2048, "min": 0, "pattern": "[a-zA-Z0-9:/_-]*"}
    documented = get_session().get_component("data_loader").load_service_model("sagemaker", "service-2")["shapes"]
    runtime = documented["StoppingCondition"]["members"]["MaxRuntimeInSeconds"]["documentation"]
    assert f"The maximum value is {limits.MOST_SECONDS // 86_400} days" in re.sub("<[^>]+>", "", runtime)
    assert set(api.shape_for("TrainingInputMode").enum) == {"Pipe", "File", "FastFile"}


def test_every_instance_type_of_the_api_has_the_form_that_is_asked_for(api: Any) -> None:
    for name in api.shape_for("TrainingInstanceType").enum:
        assert Resources(instance_type=name).instance_type == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"instance_type": "g5.xlarge"}, r"'g5\.xlarge' is no instance type of SageMaker.* such as 'ml\.g5\.xlarge'"),
        ({"fallback_instance_types": ("ml.g5.xlarge",)}, "must differ, given ml.g5.xlarge, ml.g5.xlarge"),
        ({"input_mode": "Pipe"}, "FIFO that can be read once.* use 'File', or 'FastFile'"),
        ({"input_mode": "Stream"}, "Input should be 'File' or 'FastFile'"),
        ({"max_wait_seconds": 90_000}, "spot is off: set spot, or leave max_wait_seconds out"),
        ({"spot": True, "max_wait_seconds": 60}, "max_wait_seconds 60 must be max_runtime_seconds 86400 or more"),
        ({"spot": True, "keep_alive_seconds": 60}, "no spot instances in a warm pool"),
        ({"keep_alive_seconds": 21_601}, "less than or equal to 21600"),
        ({"max_runtime_seconds": 28 * 86_400 + 1}, "less than or equal to 2419200"),
        ({"retry_attempts": 31}, "less than or equal to 30"),
        ({"instance_count": 0}, "greater than or equal to 1"),
        ({"volume_gb": 0}, "greater than or equal to 1"),
        ({"volume_key_arn": "a key"}, "should match pattern"),
        ({"vpc": {"subnets": [], "security_groups": ["sg-1"]}}, "at least 1 item"),
        ({"vpc": {"subnets": ["subnet_1"], "security_groups": ["sg-1"]}}, "should match pattern"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_api_would_refuse_or_nobody_can_want_is_refused_here(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Resources.model_validate(given)


@pytest.mark.parametrize(
    ("work", "own_records", "refused"),
    [("gate", False, True), ("evaluate", False, True), ("dataset", True, True)]
    + [(work, False, False) for work in ("dataset", "sft", "srl", "rlvr")],
)
def test_several_hosts_are_for_work_that_they_share(work: str, own_records: bool, refused: bool) -> None:
    check_hosts(work, Resources(), own_records=own_records)
    if refused:
        with pytest.raises(ValueError, match="1 of the 2 hosts would be paid for and do nothing"):
            check_hosts(work, Resources(instance_count=2), own_records=own_records)
    else:
        check_hosts(work, Resources(instance_count=2), own_records=own_records)


def test_a_request_for_an_image_that_is_not_pinned_is_refused() -> None:
    request = {"prefix": "sft-" + "a" * 12, "spec_sha256": "a" * 64, "spec_uri": "s3://bucket/x", "channels": {}}
    assert JobRequest.model_validate(request | {"image": f"r{DIGEST}"}).image == f"r{DIGEST}"
    for image in ("repository", "repository:latest", "repository@sha256:0"):
        with pytest.raises(ValidationError, match=r"is not pinned.*REPOSITORY@sha256:DIGEST"):
            JobRequest.model_validate(request | {"image": image})


def test_an_environment_that_publishes_a_tag_is_refused_and_the_parameter_is_named() -> None:
    moved = ENVIRONMENT.model_copy(update={"images": {"train": "repository:v1"}})
    with pytest.raises(InvalidInput, match="the parameter /stepforge/dev/images/train of environment 'dev': image"):
        load_recipe("facial").pipeline(moved)


def test_what_is_not_said_is_the_environments_and_what_is_said_is_kept() -> None:
    given = {"resources.sft.spot": "true", "resources.srl.instance_type": "ml.g5.xlarge"}
    recipe = load_recipe("facial", overrides=given)
    found = recipe.pipeline(ENVIRONMENT).resources
    assert (found["sft"].instance_type, found["sft"].spot) == ("ml.m5.large", True)
    assert (found["srl"].instance_type, found["srl"].spot) == ("ml.g5.xlarge", False)
    assert found["gate"] == Resources(instance_type="ml.m5.large")


def test_an_unknown_instance_type_is_told_beside_those_of_its_family() -> None:
    recipe = load_recipe("facial").running_on(instance_type="ml.g5.3xlarge")
    with pytest.raises(UnknownName, match=r"'ml\.g5\.3xlarge': did you mean 'ml\.g5\.\d*xlarge'"):
        recipe.pipeline(ENVIRONMENT)


def test_options_reach_every_job_and_several_hosts_those_that_share_work() -> None:
    options = {"instance_type": "ml.g5.xlarge", "fallback_instance_types": ("ml.g6.xlarge",)}
    recipe = load_recipe("facial").running_on(**options, spot=True, instance_count=2, max_runtime_seconds=600)
    found = recipe.pipeline(ENVIRONMENT).resources
    assert {work: r.instance_count for work, r in found.items()} == {
        "dataset": 2, "gate": 1, "sft": 2, "srl": 2, "rlvr": 2, "evaluate": 1,
    }  # fmt: skip
    assert {(r.instance_types, r.spot, r.wait_seconds) for r in found.values()} == {
        (("ml.g5.xlarge", "ml.g6.xlarge"), True, 600)
    }
    assert load_recipe("facial").running_on(spot=None) == load_recipe("facial")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep-warm", "60", "--spot"], "no spot instances in a warm pool"),
        (["--max-runtime", "0"], "field 'max_runtime_seconds'"),
        (["--instance-type", "g5.xlarge"], "no instance type of SageMaker"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_that_cannot_work_end_before_an_environment_is_started(
    options: list[str], message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    assert main(["run", "train", "--domain", "facial", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
