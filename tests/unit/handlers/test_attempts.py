"""Which attempt of a job runs, and how one ended."""

from __future__ import annotations

import io
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge import errors, logs
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.resources import Resources, Vpc
from stepforge.errors import IdentityConflict, JobFailed, JobStillRunning, NameTaken, StepforgeError
from stepforge.jobs import attempts_of
from stepforge.machines.attempts import (
    Attempt,
    CaughtError,
    Ended,
    find_attempt,
    job_failure,
    name_after,
    outcome,
    succeeded,
    volume_key,
)
from stepforge_jobs.job import Progress
from tests.fakes import FakeSageMaker, of_request

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


def add(sagemaker: FakeSageMaker, name: str, spec: str | None, status: str = "Completed", **more: Any) -> None:
    sagemaker.add_job(name, spec, status, **of_request(REQUEST) | more)


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
        add(sagemaker, f"{PREFIX}-a{number}", SHA, status)
        if status == "Completed":
            put_artifact(s3, f"{PREFIX}-a{number}", "model", {"model.safetensors": b"w"})
    assert find(sagemaker, s3) == expected


@pytest.mark.parametrize("manifest", [None, b"{", b"{}"], ids=["none", "cut off", "another file"])
def test_an_attempt_that_left_no_sound_manifest_is_spent(
    sagemaker: FakeSageMaker, s3: Any, manifest: bytes | None
) -> None:
    add(sagemaker, f"{PREFIX}-a0", SHA)
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
    add(sagemaker, f"{PREFIX}-a1", SHA)
    artifact = put_artifact(s3, f"{PREFIX}-a1", "model", {"model.safetensors": b"w"})
    last = attempts_of(connection, REQUEST)[-1]
    assert (last.status, last.outcome and last.outcome.artifact) == ("Completed", artifact)
    assert find(sagemaker, s3) == ("-a1", "adopt")


@pytest.mark.parametrize("tag", ["b" * 64, None], ids=["another spec", "untagged"])
def test_a_name_that_another_spec_has_is_a_conflict_and_never_renamed(
    sagemaker: FakeSageMaker, s3: Any, tag: str | None
) -> None:
    add(sagemaker, f"{PREFIX}-a0", tag)
    with pytest.raises(IdentityConflict, match=SHA):
        find(sagemaker, s3)


@pytest.mark.parametrize("status", ["InProgress", "Completed", "Failed"])
def test_a_job_of_another_environment_in_the_account_is_neither_polled_nor_adopted_and_the_next_number_is_ours(
    sagemaker: FakeSageMaker, s3: Any, status: str
) -> None:
    output = {"S3OutputPath": "s3://the-bucket-of-dev/jobs"}
    add(sagemaker, f"{PREFIX}-a0", SHA, status, OutputDataConfig=output)
    assert find(sagemaker, s3) == ("-a1", "create")
    # Both came at once, and the other was faster: the machine looks for the next number again.
    ended = Ended(request=REQUEST, attempt=found(sagemaker, s3))
    add(sagemaker, f"{PREFIX}-a1", SHA, status, OutputDataConfig=output)
    with pytest.raises(NameTaken, match="taken by another environment"):
        outcome(sagemaker, s3, ended, bucket=BUCKET)
    assert find(sagemaker, s3) == ("-a2", "create")
    add(sagemaker, f"{PREFIX}-a2", SHA, "InProgress")
    assert find(sagemaker, s3) == ("-a2", "poll")


def test_two_environments_of_one_account_run_the_same_recipe_and_each_finds_its_own_job(
    sagemaker: FakeSageMaker, s3: Any
) -> None:
    buckets = (BUCKET, "stepforge-another")
    s3.create_bucket(Bucket=buckets[1])
    names = []
    for bucket in buckets:
        spec_uri = f"s3://{bucket}/specs/{SHA}/spec.json"
        channels = {"spec": f"s3://{bucket}/specs/{SHA}/", "data": f"s3://{bucket}/jobs/d/output/model/"}
        request = REQUEST.model_copy(update={"spec_uri": spec_uri, "channels": channels})
        own: Any = {"bucket": bucket, "key_arn": KEY_ARN, "poll_seconds": 1}
        connection: Any = SimpleNamespace(
            client={"sagemaker": sagemaker, "s3": s3}.__getitem__, environment=SimpleNamespace(bucket=bucket)
        )
        attempt = find_attempt(sagemaker, s3, request, **own).attempt
        # Who follows is told the name that comes, where it is not the first.
        assert [a.name for a in attempts_of(connection, request)] == ([] if bucket == BUCKET else [attempt.name])
        assert attempt.action == "create"
        sagemaker.add_job(attempt.name, SHA, "InProgress", **of_request(request))
        again = find_attempt(sagemaker, s3, request, **own).attempt
        assert (again.name, again.action) == (attempt.name, "poll")
        assert [(a.name, a.status) for a in attempts_of(connection, request)] == [(attempt.name, "InProgress")]
        names.append(attempt.name)
    assert names == [f"{PREFIX}-a0", f"{PREFIX}-a1"]


@pytest.mark.parametrize(
    ("name", "after"), [(None, "a0"), ("sft-0123456789ab-a0", "a1"), ("sft-0123456789ab-a9", "a10")]
)
def test_the_number_goes_on_from_the_last_one_and_not_from_how_many_there_are(name: str | None, after: str) -> None:
    assert name_after("sft-0123456789ab", name) == f"sft-0123456789ab-{after}"


OURS = of_request(REQUEST)
FORGED: dict[str, dict[str, Any]] = {
    "image's repository": {"AlgorithmSpecification": {"TrainingImage": "evil.example/stepforge-train@sha256:0"}},
    "image's repository ''": {"AlgorithmSpecification": {"AlgorithmName": "arn:aws:sagemaker:::algorithm/x"}},
    "entry point": {"AlgorithmSpecification": OURS["AlgorithmSpecification"] | {"ContainerEntrypoint": ["bash"]}},
    "arguments": {"AlgorithmSpecification": OURS["AlgorithmSpecification"] | {"ContainerArguments": ["-c", "x"]}},
    "environment variables": {"Environment": {"PYTHONPATH": "/opt/ml/input/data/data"}},
    "input channels": {"InputDataConfig": OURS["InputDataConfig"][:1]},
    "spec": {
        "InputDataConfig": [
            {"ChannelName": name, "DataSource": {"S3DataSource": {"S3Uri": f"s3://{BUCKET}/raw/dataset/x/"}}}
            for name in REQUEST.channels
        ]
    },
    "output": {"OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/elsewhere"}},
    "checkpoints": {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/raw/dataset/x/"}},
    "folder of checkpoints": {"CheckpointConfig": OURS["CheckpointConfig"] | {"LocalPath": "/opt/ml/code"}},
    "remote shell": {"RemoteDebugConfig": {"EnableRemoteDebug": True}},
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.parametrize("status", ["InProgress", "Completed"])
def test_a_job_that_says_our_spec_and_was_not_created_by_us_is_never_adopted(
    sagemaker: FakeSageMaker, s3: Any, status: str, what: str
) -> None:
    add(sagemaker, f"{PREFIX}-a0", SHA, status, HyperParameters={"spec_sha256": SHA}, **FORGED[what])
    put_artifact(s3, f"{PREFIX}-a0", "model", {"model.safetensors": b"forged"})
    with pytest.raises(IdentityConflict, match=f"not created by .*{what}.*CloudTrail"):
        find(sagemaker, s3)
    with pytest.raises(IdentityConflict, match=what):
        outcome(sagemaker, s3, ended(sagemaker, s3), bucket=BUCKET)
    sagemaker.jobs[f"{PREFIX}-a0"] |= {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"}
    assert find(sagemaker, s3) == ("-a1", "create")


def test_an_image_that_was_built_anew_and_inputs_that_lie_elsewhere_change_no_job(
    sagemaker: FakeSageMaker, s3: Any
) -> None:
    other = IMAGE.replace("stepforge-train", "stepforge-train-cuda").replace("0" * 64, "1" * 64)
    moved = REQUEST.model_copy(
        update={"image": other, "channels": {**REQUEST.channels, "data": f"s3://{BUCKET}/raw/dataset/x/"}}
    )
    add(sagemaker, f"{PREFIX}-a0", SHA, **of_request(moved))
    put_artifact(s3, f"{PREFIX}-a0", "model", {"model.safetensors": b"w"})
    assert find(sagemaker, s3) == ("-a0", "adopt")


def test_the_ids_of_who_creates_go_with_a_job_and_decide_nothing_about_it(sagemaker: FakeSageMaker, s3: Any) -> None:
    with logs.context(trace_id="1-67890abc-0123456789abcdef01234567", request_id="call", session_id="ann"):
        first = found(sagemaker, s3)
    assert first.environment == {
        "STEPFORGE_TRACE_ID": "1-67890abc-0123456789abcdef01234567",
        "STEPFORGE_REQUEST_ID": "call",
        "STEPFORGE_SESSION_ID": "ann",
    }
    with logs.context(trace_id="other"):
        other = found(sagemaker, s3)
    assert other.model_copy(update={"environment": first.environment}) == first
    add(sagemaker, first.name, SHA, "InProgress")
    assert (found(sagemaker, s3).name, found(sagemaker, s3).environment) == (first.name, {})


def test_an_id_that_is_a_secret_goes_into_no_jobs_environment(sagemaker: FakeSageMaker, s3: Any) -> None:
    with logs.context(session_id="ghp_" + "a1" * 18), pytest.raises(errors.InvalidInput, match="SESSION_ID") as refused:
        found(sagemaker, s3)
    assert "ghp_" not in str(refused.value)


def test_fifty_failures_are_enough(sagemaker: FakeSageMaker, s3: Any) -> None:
    for number in range(50):
        add(sagemaker, f"{PREFIX}-a{number}", SHA, "Failed")
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
    for name in ("input_data_config", "output_data_config", "resource_config", "stopping_condition", "tags"):
        member = {"tags": "Tags"}.get(name, "".join(part.title() for part in name.split("_")))
        validate_parameters(plain[name], model.members[member])


def test_metrics_of_training_are_found_in_its_own_progress_lines(sagemaker: FakeSageMaker, s3: Any) -> None:
    dataset = REQUEST.model_copy(update={"prefix": PREFIX.replace("sft", "dataset")})
    assert found(sagemaker, s3, dataset).metric_definitions == []
    definitions = found(sagemaker, s3).metric_definitions
    stream = io.StringIO()
    said = {"loss": -1.5e-9, "reward": 0.25, "accepted": 1, "kl": math.nan, "entropy": 3e12, "tokens_per_second": 7.0}
    Progress(stream).step("srl", 3, 3, **said)
    read = {d["Name"]: re.search(d["Regex"], stream.getvalue()) for d in definitions}
    values = {name: float(match[1]) for name, match in read.items() if match is not None}
    assert values == {name: value for name, value in said.items() if name != "kl"}


def test_only_a_spot_job_has_a_limit_on_waiting(sagemaker: FakeSageMaker, s3: Any) -> None:
    spot = REQUEST.model_copy(update={"resources": Resources(spot=True, max_runtime_seconds=100)})
    attempt = found(sagemaker, s3, spot)
    assert attempt.stopping_condition == {"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 100}


OTHER_KEY = "arn:aws:kms:us-east-1:123456789012:key/1"


def test_keys_network_and_warm_pool_reach_the_request(sagemaker: FakeSageMaker, s3: Any) -> None:
    plain = found(sagemaker, s3)
    assert plain.output_data_config == {
        "S3OutputPath": f"s3://{BUCKET}/jobs", "KmsKeyId": KEY_ARN, "CompressionType": "NONE",
    }  # fmt: skip
    assert (plain.vpc_config, "KeepAlivePeriodInSeconds" in plain.resource_config) == (None, False)
    resources = Resources(
        instance_type="ml.m5.large",
        instance_count=2,
        keep_alive_seconds=600,
        volume_key_arn=OTHER_KEY,
        output_key_arn=OTHER_KEY,
        vpc=Vpc(subnets=("subnet-1", "subnet-2"), security_groups=("sg-1",)),
    )
    attempt = found(sagemaker, s3, REQUEST.model_copy(update={"resources": resources}))
    assert attempt.resource_config == {
        "InstanceType": "ml.m5.large",
        "InstanceCount": 2,
        "VolumeSizeInGB": 50,
        "VolumeKmsKeyId": OTHER_KEY,
        "KeepAlivePeriodInSeconds": 600,
    }
    assert attempt.output_data_config["KmsKeyId"] == OTHER_KEY
    assert attempt.vpc_config == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}


THREE = Resources(instance_type="ml.g5.xlarge", fallback_instance_types=("ml.g6.xlarge", "ml.g4dn.xlarge"))
NONE_LEFT = "CapacityError: Unable to provision requested ML compute capacity."


@pytest.mark.parametrize(
    ("refused", "expected", "tag"),
    [
        ([], "ml.g5.xlarge", "1 of 3"),
        (["ml.g5.xlarge"], "ml.g6.xlarge", "2 of 3"),
        (["ml.g5.xlarge", "ml.g6.xlarge"], "ml.g4dn.xlarge", "3 of 3"),
        (["ml.g5.xlarge", "ml.g6.xlarge", "ml.g4dn.xlarge"], "ml.g5.xlarge", "1 of 3"),
        (["ml.p3.2xlarge"], "ml.g5.xlarge", "1 of 3"),
    ],
    ids=["first", "second", "third", "all again in a new run", "one of another list"],
)
def test_after_a_refusal_for_want_of_capacity_the_next_type_is_taken(
    sagemaker: FakeSageMaker, s3: Any, refused: list[str], expected: str, tag: str
) -> None:
    for number, kind in enumerate(refused):
        config = {"InstanceType": kind}
        add(sagemaker, f"{PREFIX}-a{number}", SHA, "Failed", FailureReason=NONE_LEFT, ResourceConfig=config)
    attempt = found(sagemaker, s3, REQUEST.model_copy(update={"resources": THREE}))
    assert (attempt.name, attempt.resource_config["InstanceType"]) == (f"{PREFIX}-a{len(refused)}", expected)
    assert {"Key": "stepforge:instance-choice", "Value": tag} in attempt.tags


def test_only_a_want_of_capacity_changes_the_type_and_only_the_last_attempts(sagemaker: FakeSageMaker, s3: Any) -> None:
    request = REQUEST.model_copy(update={"resources": THREE})
    config = {"InstanceType": "ml.g5.xlarge"}
    add(sagemaker, f"{PREFIX}-a0", SHA, "Failed", FailureReason=NONE_LEFT, ResourceConfig=config)
    add(sagemaker, f"{PREFIX}-a1", SHA, "Failed", FailureReason="AlgorithmError: no", ResourceConfig=config)
    assert found(sagemaker, s3, request).resource_config["InstanceType"] == "ml.g5.xlarge"


@pytest.mark.parametrize(
    ("kind", "error"),
    [("ml.g5.xlarge", "InstanceTypeUnavailable"), ("ml.g4dn.xlarge", "CapacityError"), ("ml.t", "CapacityError")],
    ids=["there is another", "it was the last", "it is none of the list"],
)
def test_a_refusal_for_want_of_capacity_says_whether_another_type_is_tried(
    sagemaker: FakeSageMaker, s3: Any, kind: str, error: str
) -> None:
    add(sagemaker, f"{PREFIX}-a0", SHA, "Failed", FailureReason=NONE_LEFT, ResourceConfig={"InstanceType": kind})
    request = REQUEST.model_copy(update={"resources": THREE})
    gone = Ended(request=request, attempt=found(FakeSageMaker(), s3, request))
    with pytest.raises(errors.CapacityError) as raised:
        outcome(sagemaker, s3, gone, bucket=BUCKET)
    assert type(raised.value).__name__ == error
    assert ("The next attempt takes ml.g6.xlarge" in str(raised.value)) == (error == "InstanceTypeUnavailable")


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
    add(sagemaker, f"{PREFIX}-a0", SHA)
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
    add(sagemaker, f"{PREFIX}-a0", SHA, "InProgress")
    lost = CaughtError(Error="SageMaker.ResourceInUse", Cause="Training job names must be unique")
    with pytest.raises(JobStillRunning):
        outcome(sagemaker, s3, ended(sagemaker, s3, lost), bucket=BUCKET)
