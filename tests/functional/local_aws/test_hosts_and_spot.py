"""Several hosts a job, and spot instances that are taken away."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge import local
from stepforge.local import Image, LocalAws, register_images
from tests.functional.local_aws.helpers import ECR, bucket, ended, job_request, said_in, wait

Json = Any
HOST = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # like process 1 of a container it is born deaf to it
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
cluster = json.loads((base / "input/config/resourceconfig.json").read_text())
host, hp = cluster["current_host"], json.loads((base / "input/config/hyperparameters.json").read_text())
print("I am", host, flush=True)
if hp.get("fails") == host:
    (base / "output/failure").write_text(f"{host} has no disk"); sys.exit(7)
if "fails" in hp: time.sleep(60)
data = {p.name: p.read_text() for p in sorted((base / "input/data/data").iterdir())}
seen = {"hosts": cluster["hosts"], "data": data, "meeting": os.environ["STEPFORGE_MEETING"]}
(base / "model" / f"{host}.json").write_text(json.dumps(seen))
(base / "output/data" / f"{host}.txt").write_text(host)
if host == "algo-1": (base / "model/manifest.json").write_text("{}")
"""
CHAIN = """
import hashlib, json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
hp = json.loads((base / "input/config/hyperparameters.json").read_text())
pauses, kept = json.loads(hp["pauses"]), base / "checkpoints/state.json"
state = json.loads(kept.read_text()) if kept.exists() else {"step": 0, "weights": ""}
print("start", state["step"], flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
past = base / "checkpoints/pauses.json"
done = json.loads(past.read_text()) if past.exists() else []
def put(path, value):
    aside = path.with_name("." + path.name); aside.write_text(json.dumps(value)); aside.replace(path)
for step in range(state["step"], int(hp["steps"])):
    if step in pauses and step not in done:
        done.append(step); put(past, done); put(base / "output/paused.json", step)
        while True: time.sleep(1)
    state = {"step": step + 1, "weights": hashlib.sha256(f"{state['weights']} {step}".encode()).hexdigest()}
    if (step + 1) % int(hp["every"]) == 0: put(kept, state)
(base / "model/weights").write_text(state["weights"])
"""
STEPS, EVERY = 120, 5


@pytest.fixture(scope="module")
def images(local_aws: LocalAws) -> dict[str, str]:
    bucket(local_aws, "hosts")
    scripts = {"hosts": HOST, "chain": CHAIN}
    register_images({f"{ECR}/{name}": Image(argv_train=("python", "-c", text)) for name, text in scripts.items()})
    return {name: f"{ECR}/{name}@sha256:{'0' * 64}" for name in scripts}


def on_hosts(name: str, image: str, count: int, **more: Json) -> Json:
    request = job_request(name, image, bucket="hosts", **more)
    request["ResourceConfig"]["InstanceCount"] = count
    return request


def text(aws: LocalAws, key: str) -> str:
    return aws.client("s3").get_object(Bucket="hosts", Key=key)["Body"].read().decode()


def lines(aws: LocalAws, job: str) -> dict[str, list[str]]:
    """The lines of each host's stream."""
    logs, group = aws.client("logs"), "/aws/sagemaker/TrainingJobs"
    found: dict[str, list[str]] = {}
    for stream in logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]:
        name = stream["logStreamName"]
        events = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"]
        found[name.partition("/")[2].rpartition("-")[0]] = [event["message"] for event in events]
    return found


def test_each_host_has_its_part_its_log_and_its_share_of_one_artifact(
    local_aws: LocalAws, images: dict[str, str]
) -> None:
    for number in range(5):
        local_aws.client("s3").put_object(Bucket="hosts", Key=f"data/{number}", Body=str(number).encode())
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://hosts/data/", "S3DataDistributionType": "ShardedByS3Key"}
    channel = {"ChannelName": "data", "DataSource": {"S3DataSource": source}}
    sagemaker = local_aws.client("sagemaker")
    sagemaker.create_training_job(**on_hosts("two-a0", images["hosts"], 2, InputDataConfig=[channel]))
    done = ended(local_aws, "two-a0")
    assert done["TrainingJobStatus"] == "Completed", done.get("FailureReason")
    seen = {host: json.loads(text(local_aws, f"jobs/two-a0/output/model/{host}.json")) for host in ("algo-1", "algo-2")}
    assert seen["algo-1"]["hosts"] == seen["algo-2"]["hosts"] == ["algo-1", "algo-2"]
    assert [sorted(one["data"]) for one in seen.values()] == [["0", "2", "4"], ["1", "3"]]
    assert seen["algo-1"]["meeting"] == seen["algo-2"]["meeting"]
    assert text(local_aws, "jobs/two-a0/output/data/algo-2.txt") == "algo-2"
    assert lines(local_aws, "two-a0") == {host: [f"I am {host}"] for host in ("algo-1", "algo-2")}


def test_one_host_that_fails_ends_the_others_and_its_reason_is_the_jobs(
    local_aws: LocalAws, images: dict[str, str]
) -> None:
    request = on_hosts("fails-a0", images["hosts"], 3, hyperparameters={"fails": "algo-2"})
    local_aws.client("sagemaker").create_training_job(**request)
    done = ended(local_aws, "fails-a0")
    assert done["FailureReason"] == "AlgorithmError: algo-2 has no disk, exit code: 7"
    assert local_aws.client("s3").list_objects_v2(Bucket="hosts", Prefix="jobs/fails-a0/")["KeyCount"] == 0


def uninterrupted() -> str:
    weights = ""
    for step in range(STEPS):
        weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
    return weights


def interrupt(aws: LocalAws, job: str) -> None:
    arn = aws.client("sagemaker").describe_training_job(TrainingJobName=job)["TrainingJobArn"]
    aws.client("sagemaker").add_tags(ResourceArn=arn, Tags=[{"Key": "stepforge:local-interrupt", "Value": "now"}])


def spot(name: str, image: str, *, wait_seconds: int = 600, **parameters: str) -> Json:
    return job_request(
        name,
        image,
        bucket="hosts",
        hyperparameters=parameters,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": min(300, wait_seconds), "MaxWaitTimeInSeconds": wait_seconds},
        CheckpointConfig={"S3Uri": f"s3://hosts/checkpoints/{name}/"},
    )


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_spot_job_that_loses_its_instance_at_random_steps_loses_an_interval_at_most(
    local_aws: LocalAws, images: dict[str, str], count: int
) -> None:
    name = f"spot{count}-a0"
    pauses = sorted(random.Random(count).sample(range(1, STEPS), count))
    request = spot(name, images["chain"], steps=str(STEPS), every=str(EVERY), pauses=json.dumps(pauses))
    local_aws.client("sagemaker").create_training_job(**request)
    paused = local_aws.home / "local/jobs" / name / "algo-1/ml/output/paused.json"
    for step in pauses:
        wait(lambda: said_in(paused), lambda said, step=step: said == str(step))
        interrupt(local_aws, name)
    done = ended(local_aws, name)
    assert done["TrainingJobStatus"] == "Completed", done.get("FailureReason")
    assert text(local_aws, f"jobs/{name}/output/model/weights") == uninterrupted()
    starts = [int(line.split()[1]) for line in lines(local_aws, name)["algo-1"]]
    assert [start >= step - EVERY for start, step in zip(starts[1:], pauses, strict=True)] == [True] * count
    # Pending: another test's job has the machine still.
    told = [transition["Status"] for transition in done["SecondaryStatusTransitions"]]
    story = [status for status in told if status != "Pending"]
    one = ["Starting", "Downloading", "Training"]
    assert story == [*[*one, "Interrupted"] * count, *one, "Uploading", "Completed"]
    assert 1 <= done["BillableTimeInSeconds"] <= done["TrainingTimeInSeconds"]


def test_only_a_spot_job_that_runs_can_be_interrupted(local_aws: LocalAws, images: dict[str, str]) -> None:
    sagemaker = local_aws.client("sagemaker")
    parameters = {"steps": "2", "every": "1", "pauses": "[1]"}
    sagemaker.create_training_job(**job_request("firm-a0", images["chain"], bucket="hosts", hyperparameters=parameters))
    with pytest.raises(ClientError, match="firm-a0 is no managed spot job"):
        interrupt(local_aws, "firm-a0")
    sagemaker.stop_training_job(TrainingJobName="firm-a0")
    ended(local_aws, "firm-a0")


def test_a_spot_job_waits_for_capacity_until_its_limit_and_is_never_completed_then(
    local_aws: LocalAws, images: dict[str, str]
) -> None:
    local.set_capacity("ml.p3.16xlarge", available=False)
    request = spot("waits-a0", images["chain"], wait_seconds=2, steps="1", every="1", pauses="[]")
    request["ResourceConfig"]["InstanceType"] = "ml.p3.16xlarge"
    sagemaker = local_aws.client("sagemaker")
    sagemaker.create_training_job(**request)
    describe = lambda: sagemaker.describe_training_job(TrainingJobName="waits-a0")  # noqa: E731
    waiting = wait(describe, lambda job: job["SecondaryStatus"] == "Pending")
    assert "Insufficient capacity" in waiting["SecondaryStatusTransitions"][-1]["StatusMessage"]
    done = ended(local_aws, "waits-a0")
    assert (done["TrainingJobStatus"], done["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert "BillableTimeInSeconds" not in done
