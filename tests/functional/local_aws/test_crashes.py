"""kill -9 of the server: nothing that a person would miss is lost, and nothing that it started lives on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from stepforge.contracts.names import MACHINES
from stepforge.local import LocalAws, down, ensure_up, status
from stepforge.local.deploy import deploy
from stepforge.local.state import Layout, locked
from tests.functional.local_aws.helpers import (
    ROLE,
    bucket,
    ended,
    execution_ended,
    function,
    job_request,
    machine,
    register,
    said_in,
    wait,
)

Json = Any
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def own_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAws]:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    yield ensure_up()
    down()


def kill_server() -> list[psutil.Process]:
    """Kill the server alone, and return what it had started."""
    process = psutil.Process(status().pid)
    children = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    return children


def test_what_a_person_would_miss_survives_the_servers_death(own_aws: LocalAws) -> None:
    image = register()
    bucket(own_aws, "kept")
    s3, sagemaker, sfn = own_aws.client("s3"), own_aws.client("sagemaker"), own_aws.client("stepfunctions")
    s3.put_object(Bucket="kept", Key="model/weights.txt", Body=b"kept", Metadata={"sha": "1"})
    done_machine = machine(own_aws, "done", {"P": {"Type": "Pass", "End": True}})
    done = sfn.start_execution(stateMachineArn=done_machine, name="r1", input='{"a": 1}')["executionArn"]
    execution_ended(own_aws, done)
    own_aws.client("secretsmanager").create_secret(Name="s", SecretString="value")
    key = own_aws.client("kms").create_key()["KeyMetadata"]["KeyId"]
    sealed = own_aws.client("kms").encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]
    function(own_aws, "kept", "def handler(event, context): return 'kept'")
    own_aws.client("ssm").put_parameter(Name="/stepforge/local/bucket", Value="kept", Type="String")
    template = {"Resources": {"Q": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "q"}}}}
    own_aws.client("cloudformation").create_stack(StackName="kept", TemplateBody=json.dumps(template))
    sagemaker.create_model_package_group(ModelPackageGroupName="kept")
    package = sagemaker.create_model_package(ModelPackageGroupName="kept")["ModelPackageArn"]
    source = {"S3Uri": "s3://kept/model/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    sagemaker.create_model(
        ModelName="m",
        PrimaryContainer={"Image": image, "ModelDataSource": {"S3DataSource": source}},
        ExecutionRoleArn=ROLE,
    )
    variant = {"VariantName": "all", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="m", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="m", EndpointConfigName="m")
    wait(lambda: sagemaker.describe_endpoint(EndpointName="m")["EndpointStatus"], lambda s: s == "InService")

    run = job_request(
        "again-a1",
        image,
        bucket="kept",
        hyperparameters={"steps": "4", "hold_at": "2"},
        RetryStrategy={"MaximumRetryAttempts": 2},
        CheckpointConfig={"S3Uri": "s3://kept/checkpoints/again"},
    )
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
        "Parameters": run,
        "End": True,
    }
    running = sfn.start_execution(stateMachineArn=machine(own_aws, "running", {"T": state}))["executionArn"]
    wait(lambda: s3.list_objects_v2(Bucket="kept", Prefix="checkpoints/again").get("Contents", []), bool)
    sagemaker.create_training_job(**job_request("queued-a1", image, bucket="kept"))
    time.sleep(1.2)

    orphans = kill_server()
    assert len(orphans) >= 4
    _, alive = psutil.wait_procs(orphans, timeout=3)
    assert alive == []

    after = ensure_up()
    assert (after.endpoint_url, after.access_key_id) == (own_aws.endpoint_url, own_aws.access_key_id)
    kept = s3.get_object(Bucket="kept", Key="model/weights.txt")
    assert (kept["Body"].read(), kept["Metadata"]) == (b"kept", {"sha": "1"})
    assert sfn.describe_execution(executionArn=done)["status"] == "SUCCEEDED"
    lost = sfn.describe_execution(executionArn=running)
    assert (lost["status"], lost["error"]) == ("FAILED", "Interrupted")
    assert "goes on from the last checkpoint" in lost["cause"]
    assert own_aws.client("secretsmanager").get_secret_value(SecretId="s")["SecretString"] == "value"
    assert own_aws.client("kms").decrypt(CiphertextBlob=sealed)["Plaintext"] == b"p"
    assert own_aws.client("lambda").invoke(FunctionName="kept")["Payload"].read() == b'"kept"'
    assert own_aws.client("ssm").get_parameter(Name="/stepforge/local/bucket")["Parameter"]["Value"] == "kept"
    assert (
        own_aws.client("cloudformation").describe_stacks(StackName="kept")["Stacks"][0]["StackStatus"]
        == "CREATE_COMPLETE"
    )
    assert sagemaker.describe_model_package(ModelPackageName=package)["ModelPackageVersion"] == 1
    runtime = own_aws.client("sagemaker-runtime")
    assert runtime.invoke_endpoint(EndpointName="m", Body=b"?")["Body"].read() == b"kept:?"

    again = ended(own_aws, "again-a1")
    assert again["TrainingJobStatus"] == "Completed", again.get("FailureReason")
    assert "Restarting" in [t["Status"] for t in again["SecondaryStatusTransitions"]]
    weights = json.loads(s3.get_object(Bucket="kept", Key="jobs/again-a1/output/model/weights.txt")["Body"].read())
    assert weights["start"] > 0
    assert ended(own_aws, "queued-a1")["TrainingJobStatus"] == "Completed"


def test_a_deployment_that_the_servers_death_cuts_off_is_done_again(own_aws: LocalAws) -> None:
    def cut_off() -> None:
        with contextlib.suppress(BotoCoreError):
            deploy(own_aws)

    deploying = threading.Thread(target=cut_off)
    deploying.start()
    # The group is on disk at once, the rest of the stack is not: the second deployment meets it.
    sagemaker = own_aws.client("sagemaker", config=Config(retries={"total_max_attempts": 1}))
    wait(lambda: sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"], bool)
    kill_server()
    deploying.join(60)
    after = ensure_up()
    assert deploy(after)
    assert not deploy(after)
    time.sleep(2)
    kill_server()
    # What the stack says that it made is there.
    assert not deploy(ensure_up())
    pages = (
        after.client("ssm").get_paginator("get_parameters_by_path").paginate(Path="/stepforge/local/", Recursive=True)
    )
    machines = [p["Value"] for page in pages for p in page["Parameters"] if "/machines/" in p["Name"]]
    assert len(machines) == len(MACHINES)
    for machine_arn in machines:
        after.client("stepfunctions").describe_state_machine(stateMachineArn=machine_arn)


def test_a_job_that_may_not_be_retried_fails_with_the_reason(own_aws: LocalAws) -> None:
    image = register()
    bucket(own_aws)
    sagemaker = own_aws.client("sagemaker")
    sagemaker.create_training_job(**job_request("lost-a1", image, hyperparameters={"steps": "99", "seconds": "1"}))
    wait(
        lambda: sagemaker.describe_training_job(TrainingJobName="lost-a1")["SecondaryStatus"], lambda s: s == "Training"
    )
    kill_server()
    ensure_up()
    lost = ended(own_aws, "lost-a1")
    assert lost["FailureReason"] == "InternalServerError: the local server stopped while the job ran"
    assert own_aws.client("s3").list_objects_v2(Bucket="artifacts")["KeyCount"] == 0


def test_down_ends_everything_and_up_brings_it_back(own_aws: LocalAws) -> None:
    image = register()
    bucket(own_aws)
    own_aws.client("s3").put_object(Bucket="artifacts", Key="k", Body=b"1")
    sagemaker = own_aws.client("sagemaker")
    # Its checkpoint never stands still for long enough to be copied while it runs.
    checkpoints = {"S3Uri": "s3://artifacts/checkpoints/ended"}
    steps = {"steps": "999", "seconds": "0.05"}
    sagemaker.create_training_job(**job_request("ended-a1", image, hyperparameters=steps, CheckpointConfig=checkpoints))
    wait(
        lambda: sagemaker.describe_training_job(TrainingJobName="ended-a1")["SecondaryStatus"],
        lambda s: s == "Training",
    )
    step = wait(lambda: list(own_aws.home.rglob("checkpoints/step")), bool)[0]
    wait(lambda: int(said_in(step) or 0), lambda reached: reached > 3)
    children = psutil.Process(status().pid).children(recursive=True)
    assert down()
    assert psutil.wait_procs(children, timeout=2)[1] == []
    assert not status().running
    ensure_up()
    assert own_aws.client("s3").get_object(Bucket="artifacts", Key="k")["Body"].read() == b"1"
    step = own_aws.client("s3").get_object(Bucket="artifacts", Key="checkpoints/ended/step")["Body"].read()
    assert int(step) > 3
    assert os.path.exists(own_aws.home / "local/server.json")


def test_a_start_that_waited_for_a_reset_comes_up(own_aws: LocalAws) -> None:
    layout = Layout.of(own_aws.home)
    call = "from stepforge.local import ensure_up; print(ensure_up().access_key_id)"
    down()
    with locked(layout.start_lock):
        start = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, env=environment())
        time.sleep(1)
        assert start.poll() is None
        shutil.rmtree(layout.root)
    key = start.communicate(timeout=60)[0].strip()
    assert key == ensure_up().access_key_id != own_aws.access_key_id


def test_a_server_of_another_checkout_is_not_used(own_aws: LocalAws, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs" / "stepforge_jobs", tmp_path / "stepforge_jobs")
    call = subprocess.run(
        [sys.executable, "-c", "from stepforge.local import ensure_up; ensure_up()"],
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"runs the code of {sys.prefix}, {ROOT / 'sdk'}, {ROOT / 'jobs'}, and this is" in call.stderr
    assert status().pid is not None


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])}
