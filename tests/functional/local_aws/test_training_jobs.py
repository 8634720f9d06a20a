"""Training jobs under the SageMaker contract."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from stepforge import local
from stepforge.local import Image, LocalAws, code, register_images
from tests.functional.local_aws.helpers import ECR, TRAIN, bucket, ended, job_request, register, wait


@pytest.fixture(scope="module")
def image(local_aws: LocalAws) -> str:
    bucket(local_aws)
    return register()


def test_a_job_reads_its_channels_and_leaves_a_model_logs_metrics_and_times(local_aws: LocalAws, image: str) -> None:
    s3, sagemaker = local_aws.client("s3"), local_aws.client("sagemaker")
    s3.put_object(Bucket="artifacts", Key="specs/abc/spec.json", Body=b"{}")
    s3.put_object(Bucket="artifacts", Key="data/x/deep/shard", Body=b"row")
    channels = [
        {
            "ChannelName": name,
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://artifacts/{prefix}"}},
        }
        for name, prefix in (("spec", "specs/abc/"), ("data", "data/x/"))
    ]
    request = job_request("whole-a1", image, InputDataConfig=channels, Tags=[{"Key": "k", "Value": "v"}])
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=([0-9.]+)"}]
    arn = sagemaker.create_training_job(**request)["TrainingJobArn"]
    done = ended(local_aws, "whole-a1")
    assert done["TrainingJobStatus"] == "Completed", done.get("FailureReason")
    assert done["ModelArtifacts"]["S3ModelArtifacts"] == "s3://artifacts/jobs/whole-a1/output/model/"
    assert done["FinalMetricDataList"][0]["Value"] == 0.5
    assert done["BillableTimeInSeconds"] >= 1
    assert [t["Status"] for t in done["SecondaryStatusTransitions"]] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    weights = json.loads(s3.get_object(Bucket="artifacts", Key="jobs/whole-a1/output/model/weights.txt")["Body"].read())
    assert weights == {
        "start": 0,
        "argv": ["train"],
        "channels": {"spec/spec.json": "{}", "data/deep/shard": "row"},
        "secret": False,
        "offline": "1",
    }
    stream = local_aws.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="whole-a1/algo-1-"
    )
    events = local_aws.client("logs").get_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs",
        logStreamName=stream["logStreams"][0]["logStreamName"],
        startFromHead=True,
    )["events"]
    assert [event["message"] for event in events] == ["start 0", "loss=1.000", "loss=0.500"]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "k", "Value": "v"}]
    # The folder goes a moment after the job has ended.
    wait(lambda: list((local_aws.home / "local/jobs").iterdir()), lambda left: not left)


def test_checkpoints_reach_s3_while_the_job_runs_and_come_back(local_aws: LocalAws, image: str) -> None:
    s3, sagemaker = local_aws.client("s3"), local_aws.client("sagemaker")
    checkpoints = {"CheckpointConfig": {"S3Uri": "s3://artifacts/checkpoints/resume"}}
    sagemaker.create_training_job(
        **job_request("resume-a1", image, hyperparameters={"steps": "500", "seconds": "0.4"}, **checkpoints)
    )
    wait(lambda: s3.list_objects_v2(Bucket="artifacts", Prefix="checkpoints/resume/").get("Contents", []), bool)
    assert sagemaker.describe_training_job(TrainingJobName="resume-a1")["TrainingJobStatus"] == "InProgress"
    sagemaker.stop_training_job(TrainingJobName="resume-a1")
    stopped = ended(local_aws, "resume-a1")
    assert (stopped["TrainingJobStatus"], stopped["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert s3.get_object(Bucket="artifacts", Key="jobs/resume-a1/output/model/ended")["Body"].read() == b"by signal"
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="artifacts", Prefix="checkpoints/resume")["Contents"]]
    assert keys == ["checkpoints/resume/step"]
    reached = int(s3.get_object(Bucket="artifacts", Key=keys[0])["Body"].read())
    sagemaker.create_training_job(
        **job_request("resume-a2", image, hyperparameters={"steps": str(reached + 1)}, **checkpoints)
    )
    ended(local_aws, "resume-a2")
    weights = s3.get_object(Bucket="artifacts", Key="jobs/resume-a2/output/model/weights.txt")["Body"].read()
    assert json.loads(weights)["start"] == reached


def test_a_failure_text_becomes_the_failure_reason_and_no_model_is_left(local_aws: LocalAws, image: str) -> None:
    local_aws.client("sagemaker").create_training_job(
        **job_request("fails-a1", image, hyperparameters={"fail": "row 17 is empty"})
    )
    done = ended(local_aws, "fails-a1")
    assert done["FailureReason"] == "AlgorithmError: row 17 is empty, exit code: 3"
    assert local_aws.client("s3").list_objects_v2(Bucket="artifacts", Prefix="jobs/fails-a1/")["KeyCount"] == 0


def test_a_killed_process_is_an_internal_error_and_goes_on_where_it_may_be_retried(
    local_aws: LocalAws, image: str
) -> None:
    sagemaker = local_aws.client("sagemaker")
    checkpoints = {"CheckpointConfig": {"S3Uri": "s3://artifacts/checkpoints/killed/"}}
    sagemaker.create_training_job(
        **job_request(
            "killed-a1", image, hyperparameters={"kill": "1"}, RetryStrategy={"MaximumRetryAttempts": 1}, **checkpoints
        )
    )
    sagemaker.create_training_job(**job_request("killed-a2", image, hyperparameters={"kill": "1"}))
    retried, failed = ended(local_aws, "killed-a1"), ended(local_aws, "killed-a2")
    assert retried["TrainingJobStatus"] == "Completed"
    assert "Restarting" in [t["Status"] for t in retried["SecondaryStatusTransitions"]]
    weights = (
        local_aws.client("s3")
        .get_object(Bucket="artifacts", Key="jobs/killed-a1/output/model/weights.txt")["Body"]
        .read()
    )
    assert json.loads(weights)["start"] == 2
    assert failed["FailureReason"].startswith("InternalServerError: the training process was killed")


def test_a_job_over_its_time_is_stopped_and_never_completed(local_aws: LocalAws, image: str) -> None:
    request = job_request(
        "slow-a1",
        image,
        hyperparameters={"steps": "99", "seconds": "1", "deaf": "1"},
        StoppingCondition={"MaxRuntimeInSeconds": 1},
    )
    local_aws.client("sagemaker").create_training_job(**request)
    done = ended(local_aws, "slow-a1")
    assert (done["TrainingJobStatus"], done["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_jobs_beyond_the_limit_wait_and_can_be_stopped_while_they_do(local_aws: LocalAws, image: str) -> None:
    sagemaker = local_aws.client("sagemaker")
    sagemaker.create_training_job(**job_request("first-a1", image, hyperparameters={"steps": "99", "seconds": "1"}))
    sagemaker.create_training_job(**job_request("second-a1", image))
    describe = lambda: sagemaker.describe_training_job(TrainingJobName="second-a1")  # noqa: E731
    # Until the job of the test before has left, both wait for that one.
    wait(describe, lambda d: d["SecondaryStatusTransitions"][-1]["StatusMessage"] == "Waits for first-a1 to end")
    assert (activity := local.activity()) is not None
    assert activity.waiting == ("second-a1",)
    sagemaker.stop_training_job(TrainingJobName="second-a1")
    assert ended(local_aws, "second-a1")["SecondaryStatus"] == "Stopped"
    sagemaker.stop_training_job(TrainingJobName="first-a1")
    ended(local_aws, "first-a1")


def test_gzip_is_the_default_form_of_a_model(local_aws: LocalAws, image: str) -> None:
    request = job_request("packed-a1", image)
    del request["OutputDataConfig"]["CompressionType"]
    local_aws.client("sagemaker").create_training_job(**request)
    assert ended(local_aws, "packed-a1")["ModelArtifacts"]["S3ModelArtifacts"].endswith(
        "/packed-a1/output/model.tar.gz"
    )
    assert (
        local_aws.client("s3").head_object(Bucket="artifacts", Key="jobs/packed-a1/output/model.tar.gz")[
            "ContentLength"
        ]
        > 0
    )


def test_an_empty_channel_fails_the_job_and_says_which(local_aws: LocalAws, image: str) -> None:
    channel = {
        "ChannelName": "data",
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://artifacts/nothing/"}},
    }
    local_aws.client("sagemaker").create_training_job(**job_request("empty-a1", image, InputDataConfig=[channel]))
    assert 'No S3 objects found under S3 URL "s3://artifacts/nothing/"' in ended(local_aws, "empty-a1")["FailureReason"]


LOADER_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            {"AlgorithmSpecification": {"TrainingImage": "evil/image:1", "TrainingInputMode": "File"}},
            "ValidationException",
            "not registered",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": f"{ECR}/demo",
                    "TrainingInputMode": "File",
                    "ContainerEntrypoint": ["sh"],
                }
            },
            "ValidationException",
            "would run any command",
        ),
        *(
            ({"Environment": {"FINE": "1", name: "/tmp/mine"}}, "ValidationException", f"'{name}' would run any code")
            for name in LOADER_VARIABLES
        ),
        ({"TrainingJobName": "no_underscores"}, "ValidationException", "regular expression"),
        ({"HyperParameters": {"a": "x" * 2501}}, "ValidationException", "at most 2500"),
        ({"TrainingJobName": "whole-a1"}, "ResourceInUse", "already exists"),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 9, "VolumeSizeInGB": 1}},
            "ValidationException",
            "must be 1 to 8 here",
        ),
    ],
    ids=[
        "unregistered image",
        "own entry point",
        *LOADER_VARIABLES,
        "bad name",
        "long hyperparameter",
        "taken name",
        "nine instances",
    ],
)
def test_a_request_that_aws_refuses_is_refused(
    local_aws: LocalAws, image: str, change: dict, code: str, message: str
) -> None:
    sagemaker = local_aws.client("sagemaker")
    if change.get("TrainingJobName") == "whole-a1":
        try:
            sagemaker.describe_training_job(TrainingJobName="whole-a1")
        except ClientError:
            sagemaker.create_training_job(**job_request("whole-a1", image))
    with pytest.raises(ClientError, match=message) as caught:
        sagemaker.create_training_job(**{**job_request("refused-a1", image), **change})
    assert caught.value.response["Error"]["Code"] == code


def test_an_unknown_job_is_a_validation_error_as_on_aws(local_aws: LocalAws) -> None:
    with pytest.raises(ClientError, match="Requested resource not found") as caught:
        local_aws.client("sagemaker").describe_training_job(TrainingJobName="nobody")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_job_of_sources_that_were_changed_since_is_refused_with_the_remedy(local_aws: LocalAws) -> None:
    name, sagemaker = f"{ECR}/pinned", local_aws.client("sagemaker")
    register_images({name: Image(argv_train=("python", "-c", TRAIN), pinned=True)})
    now = code.image_digest(code.codes())
    for job, address in (("pinned-now", now), ("pinned-before", "0" * 64)):
        sagemaker.create_training_job(**job_request(job, f"{name}@sha256:{address}"))
    assert ended(local_aws, "pinned-now")["TrainingJobStatus"] == "Completed"
    refused = ended(local_aws, "pinned-before")
    assert refused["TrainingJobStatus"] == "Failed"
    assert "was changed since the run was started" in refused["FailureReason"]
    assert "start the run again" in refused["FailureReason"]
