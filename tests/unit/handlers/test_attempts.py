"""Which attempt of a job runs, and how one ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stepforge import errors
from stepforge.attempts import Attempt, CaughtError, Ended, find_attempt, job_failure, outcome, succeeded, volume_key
from stepforge.contracts.jobs import JobRequest, Resources
from stepforge.errors import IdentityConflict, JobFailed, JobStillRunning, StepforgeError
from stepforge.jobs import attempts_of
from tests.fakes import FakeSageMaker

from .conftest import BUCKET, IMAGE, KEY_ARN, put_artifact

PREFIX, SHA = "sft-" + "a" * 12, "a" * 64
REQUEST = JobRequest(
    prefix=PREFIX,
    spec_sha256=SHA,
    spec_uri=f"s3://{BUCKET}/specs/{SHA}/spec.json",
    image=IMAGE,
    channels={"spec": f"s3://{BUCKET}/specs/{SHA}/", "data": f"s3://{BUCKET}/jobs/d/output/model/"},
)


def found(sagemaker: FakeSageMaker, s3: Any, request: JobRequest = REQUEST) -> Attempt:
    return find_attempt(sagemaker, s3, request, bucket=BUCKET, key_arn=KEY_ARN, poll_seconds=1).attempt


def find(sagemaker: FakeSageMaker, s3: Any) -> tuple[str, str]:
    attempt = found(sagemaker, s3)
    return attempt.name.removeprefix(PREFIX), attempt.action


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], ("-a0", "create")),
        (["Completed"], ("-a0", "adopt")),
        (["InProgress"], ("-a0", "poll")),
        (["Stopping"], ("-a0", "poll")),
        (["Failed"], ("-a1", "create")),
        (["Stopped"], ("-a1", "create")),
        (["Failed", "Stopped", "InProgress"], ("-a2", "poll")),
        (["Failed", "Completed"], ("-a1", "adopt")),
    ],
    ids=lambda value: "-".join(value) or "none",
)
def test_the_first_attempt_that_is_not_spent_is_taken(
    sagemaker: FakeSageMaker, s3: Any, statuses: list[str], expected: tuple[str, str]
) -> None:
    for number, status in enumerate(statuses):
        sagemaker.add_job(f"{PREFIX}-a{number}", SHA, status)
        if status == "Completed":
            put_artifact(s3, f"{PREFIX}-a{number}", "model", {"model.safetensors": b"w"})
    assert find(sagemaker, s3) == expected


@pytest.mark.parametrize("manifest", [None, b"{", b"{}"], ids=["none", "cut off", "another file"])
def test_an_attempt_that_left_no_sound_manifest_is_spent(
    sagemaker: FakeSageMaker, s3: Any, manifest: bytes | None
) -> None:
    sagemaker.add_job(f"{PREFIX}-a0", SHA)
    if manifest is not None:
        s3.put_object(Bucket=BUCKET, Key=f"jobs/{PREFIX}-a0/output/model/manifest.json", Body=manifest)
    assert find(sagemaker, s3) == ("-a1", "create")
    with pytest.raises(errors.AlgorithmError, match=r"left no sound manifest\.json, which a job writes last"):
        outcome(sagemaker, s3, ended(sagemaker, s3), bucket=BUCKET)

    connection: Any = SimpleNamespace(
        client={"sagemaker": sagemaker, "s3": s3}.__getitem__, environment=SimpleNamespace(bucket=BUCKET)
    )
    spent = attempts_of(connection, REQUEST)
    assert [(a.name, a.status, a.outcome) for a in spent] == [(f"{PREFIX}-a0", "Failed", None)]
    assert "its process ended before it was done" in spent[0].failure
    sagemaker.add_job(f"{PREFIX}-a1", SHA)
    artifact = put_artifact(s3, f"{PREFIX}-a1", "model", {"model.safetensors": b"w"})
    last = attempts_of(connection, REQUEST)[-1]
    assert (last.status, last.outcome and last.outcome.artifact) == ("Completed", artifact)
    assert find(sagemaker, s3) == ("-a1", "adopt")


@pytest.mark.parametrize("tag", ["b" * 64, None], ids=["another spec", "untagged"])
def test_a_name_that_another_spec_has_is_a_conflict_and_never_renamed(
    sagemaker: FakeSageMaker, s3: Any, tag: str | None
) -> None:
    sagemaker.add_job(f"{PREFIX}-a0", tag)
    with pytest.raises(IdentityConflict, match=SHA):
        find(sagemaker, s3)


def test_fifty_failures_are_enough(sagemaker: FakeSageMaker, s3: Any) -> None:
    for number in range(50):
        sagemaker.add_job(f"{PREFIX}-a{number}", SHA, "Failed")
    with pytest.raises(JobFailed, match="50 times"):
        find(sagemaker, s3)


def test_a_refused_describe_is_not_taken_for_a_free_name(
    sagemaker: FakeSageMaker, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fakes import refusal

    def denied(**_: Any) -> None:
        raise refusal("DescribeTrainingJob", "User is not authorized", "AccessDeniedException")

    monkeypatch.setattr(sagemaker, "describe_training_job", denied)
    with pytest.raises(Exception, match="not authorized"):
        find(sagemaker, s3)


def test_the_request_has_the_shape_of_the_api(sagemaker: FakeSageMaker, s3: Any) -> None:
    attempt = found(sagemaker, s3)
    assert [channel["ChannelName"] for channel in attempt.input_data_config] == ["data", "spec"]
    assert {"Key": "stepforge:spec-sha256", "Value": SHA} in attempt.tags
    assert attempt.stopping_condition == {"MaxRuntimeInSeconds": 86_400}
    from botocore.session import get_session
    from botocore.validate import validate_parameters

    model = get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape
    plain = attempt.model_dump()
    for name in ("input_data_config", "resource_config", "stopping_condition", "tags"):
        member = {"tags": "Tags"}.get(name, "".join(part.title() for part in name.split("_")))
        validate_parameters(plain[name], model.members[member])


def test_only_a_spot_job_has_a_limit_on_waiting(sagemaker: FakeSageMaker, s3: Any) -> None:
    spot = REQUEST.model_copy(update={"resources": Resources(spot=True, max_runtime_seconds=100)})
    attempt = found(sagemaker, s3, spot)
    assert attempt.stopping_condition == {"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 100}


@pytest.mark.parametrize(
    ("instance", "takes"),
    [("ml.m5.large", True), ("ml.c6i.xlarge", True), ("ml.p3.2xlarge", True)]
    + [(f"ml.{kind}", False) for kind in ("g5.xlarge", "g4dn.xlarge", "p4d.24xlarge", "m5d.large", "r7gd.large")],
)
def test_the_volume_key_is_left_out_where_sagemaker_refuses_it(instance: str, takes: bool) -> None:
    assert (volume_key(instance, KEY_ARN) is not None) == takes


def job(status: str, *, secondary: str | None = None, reason: str = "") -> dict[str, Any]:
    return {
        "TrainingJobName": "j",
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary or status,
        "FailureReason": reason,
    }


@pytest.mark.parametrize(
    ("ended", "name", "text"),
    [
        (job("Failed", reason="AlgorithmError: line 17, exit code: 2"), "AlgorithmError", "line 17, exit code: 2"),
        (job("Failed", reason="CapacityError: none left"), "CapacityError", "none left"),
        (job("Failed", reason="InternalServerError: sorry"), "InternalServerError", "sorry"),
        (job("Failed", reason="ClientError: no such image"), "InvalidJob", "no such image"),
        (job("Failed", reason="ResourceLimitExceeded: 0 left"), "ResourceLimitExceeded", "0 left"),
        (job("Failed", reason="something new"), "JobFailed", "something new"),
        (job("Failed"), "JobFailed", "without a reason"),
        (job("Stopped"), "Stopped", "before it was done"),
        (job("Stopped", secondary="Interrupted"), "Interrupted", "lost its spot instance"),
        (job("Stopped", secondary="MaxRuntimeExceeded"), "MaxRuntimeExceeded", "its limits"),
        (job("Completed", secondary="MaxWaitTimeExceeded"), "MaxWaitTimeExceeded", "no spot instance"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_failure_has_the_name_of_its_class_and_a_clean_text(ended: dict[str, Any], name: str, text: str) -> None:
    failure = job_failure(ended)
    assert type(failure).__name__ == name
    assert text in str(failure)
    assert not str(failure).startswith(("AlgorithmError", "CapacityError"))


@pytest.mark.parametrize("status", ["Stopped", "Failed", "InProgress", "Stopping"])
@pytest.mark.parametrize("secondary", ["Completed", "Stopped", "Interrupted"])
def test_nothing_but_completed_is_success(status: str, secondary: str) -> None:
    assert not succeeded(job(status, secondary=secondary))
    assert not succeeded(job("Completed", secondary="MaxRuntimeExceeded"))
    assert succeeded(job("Completed"))


def ended(sagemaker: FakeSageMaker, s3: Any, error: CaughtError | None = None) -> Ended:
    return Ended(request=REQUEST, attempt=found(FakeSageMaker(), s3), error=error)


def test_a_completed_job_yields_the_digest_of_its_manifest(sagemaker: FakeSageMaker, s3: Any) -> None:
    artifact = put_artifact(s3, f"{PREFIX}-a0", "model", {"model.safetensors": b"w"})
    sagemaker.add_job(f"{PREFIX}-a0", SHA)
    result = outcome(sagemaker, s3, ended(sagemaker, s3), bucket=BUCKET)
    assert (result.artifact, result.type, result.billable_seconds) == (artifact, "sft", 60)
    assert result.adopted is False


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            CaughtError(Error="SageMaker.ResourceLimitExceededException", Cause="0 instances"),
            errors.ResourceLimitExceeded,
        ),
        (CaughtError(Error="SageMaker.ValidationException", Cause="bad role"), errors.InvalidJob),
    ],
    ids=["limit", "invalid"],
)
def test_a_job_that_was_never_created_says_why(
    sagemaker: FakeSageMaker, s3: Any, error: CaughtError, kind: type[StepforgeError]
) -> None:
    with pytest.raises(kind, match=error.Cause):
        outcome(sagemaker, s3, ended(sagemaker, s3, error), bucket=BUCKET)


def test_losing_the_race_for_a_name_means_to_wait(sagemaker: FakeSageMaker, s3: Any) -> None:
    sagemaker.add_job(f"{PREFIX}-a0", SHA, "InProgress")
    lost = CaughtError(Error="SageMaker.ResourceInUse", Cause="Training job names must be unique")
    with pytest.raises(JobStillRunning):
        outcome(sagemaker, s3, ended(sagemaker, s3, lost), bucket=BUCKET)
