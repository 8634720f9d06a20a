"""What jobs run on: capacity, the next instance type, and what was asked for."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stepforge import local
from stepforge.cli import _plan
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobOutcome, JobRequest, JobSpec
from stepforge.contracts.names import Keys, execution_name
from stepforge.contracts.resources import Resources, Vpc
from stepforge.contracts.work import DatasetWork
from stepforge.following import pace
from stepforge.following.pace import Pace
from stepforge.jobs import Jobs
from stepforge.submitting.submission import Submission, submit_after

from .conftest import CODE, IMAGE, Deployed


def run_dataset(deployed: Deployed, seed: int, resources: Resources, *, number: int = 1) -> tuple[str, dict[str, Any]]:
    """Run one dataset job by `run-job`: the prefix of its names, and DescribeExecution."""
    spec = JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])
    key = Keys.spec(spec.identity)
    deployed.aws.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=canonical_json(spec))
    request = JobRequest(
        prefix=spec.prefix,
        spec_sha256=spec.identity,
        spec_uri=f"s3://{deployed.bucket}/{key}",
        image=IMAGE,
        channels={"spec": f"s3://{deployed.bucket}/{key.removesuffix('spec.json')}"},
        resources=resources,
    )
    name = execution_name("run-job", spec.identity, number)
    return spec.prefix, deployed.run("run-job", name, request.model_dump(mode="json"))


def test_where_there_is_no_capacity_the_next_instance_type_is_taken_and_recorded(deployed: Deployed) -> None:
    local.set_capacity("ml.p3.2xlarge", available=False)
    types = Resources(instance_type="ml.p3.2xlarge", fallback_instance_types=("ml.g5.xlarge",))
    prefix, ended = run_dataset(deployed, 201, types)
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    taken = JobOutcome.model_validate_json(ended["output"])
    assert (taken.name, taken.instance_type) == (f"{prefix}-a1", "ml.g5.xlarge")
    sagemaker = deployed.aws.client("sagemaker")
    refused = sagemaker.describe_training_job(TrainingJobName=f"{prefix}-a0")
    assert refused["FailureReason"].startswith("CapacityError: Unable to provision")
    tags = sagemaker.list_tags(ResourceArn=taken.arn)["Tags"]
    assert {"Key": "stepforge:instance-choice", "Value": "2 of 2"} in tags


def test_a_job_by_itself_takes_the_next_instance_type_as_a_run_does(
    deployed: Deployed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LOCAL_PACE", Pace(describe_seconds=0.1, logs_seconds=0.1, give_up_seconds=30))
    # The real one would publish the real images in place of the stand-in.
    connection = deployed.connection
    monkeypatch.setattr(_plan, "Client", lambda _: SimpleNamespace(connection=connection, jobs=Jobs(connection)))
    for kind in ("ml.p3.2xlarge", "ml.p3.8xlarge"):
        local.set_capacity(kind, available=False)
    spec = JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=209), code_sha256=CODE["dataset"])

    def submitted(*types: str) -> dict[str, Any]:
        resources = {"instance_type": types[0], "fallback_instance_types": types[1:]}
        job = tmp_path / "job.json"
        job.write_text(json.dumps({**spec.model_dump(mode="json"), "resources": resources}))
        with suppress(typer.Exit):
            _plan.submit(_plan.Given(job=job, checks=False), yes=True, dry_run=False, wait=True, as_json=True)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    failed = submitted("ml.p3.2xlarge", "ml.p3.8xlarge")
    assert (failed["error"], failed["job"]) == ("CapacityError", f"{spec.prefix}-a1")
    done = submitted("ml.p3.2xlarge", "ml.g5.xlarge")
    assert (done["status"], done["job"]) == ("Completed", f"{spec.prefix}-a3")
    sagemaker = deployed.aws.client("sagemaker")
    jobs = [sagemaker.describe_training_job(TrainingJobName=f"{spec.prefix}-a{n}") for n in range(4)]
    taken = [job["ResourceConfig"]["InstanceType"] for job in jobs]
    assert taken == ["ml.p3.2xlarge", "ml.p3.8xlarge", "ml.p3.2xlarge", "ml.g5.xlarge"]
    types = Resources(instance_type="ml.p3.2xlarge", fallback_instance_types=("ml.g5.xlarge",))
    assert submit_after(deployed.connection, spec, jobs[3], types) is None, "it did not end for want of capacity"
    late = submit_after(deployed.connection, spec, jobs[2], types)
    assert late == Submission(f"{spec.prefix}-a3", "adopt"), "somebody else was first"


@pytest.mark.slow
def test_where_no_type_has_capacity_it_is_said_and_the_next_begins_with_the_first(deployed: Deployed) -> None:
    for kind in ("ml.p3.2xlarge", "ml.p3.8xlarge"):
        local.set_capacity(kind, available=False)
    types = Resources(instance_type="ml.p3.2xlarge", fallback_instance_types=("ml.p3.8xlarge",))
    prefix, ended = run_dataset(deployed, 202, types)
    assert (ended["status"], ended["error"]) == ("FAILED", "CapacityError")
    local.set_capacity("ml.p3.2xlarge", available=True)
    again = JobOutcome.model_validate_json(run_dataset(deployed, 202, types, number=2)[1]["output"])
    assert (again.name, again.instance_type) == (f"{prefix}-a2", "ml.p3.2xlarge")


def test_what_was_asked_for_reaches_the_job(deployed: Deployed) -> None:
    wanted = Resources(
        instance_type="ml.m5.large",
        keep_alive_seconds=60,
        retry_attempts=7,
        input_mode="FastFile",
        network_isolation=False,
        encrypt_between_hosts=False,
        vpc=Vpc(subnets=("subnet-1",), security_groups=("sg-1",)),
    )
    prefix, ended = run_dataset(deployed, 203, wanted)
    assert ended["status"] == "SUCCEEDED"
    job = deployed.aws.client("sagemaker").describe_training_job(TrainingJobName=f"{prefix}-a0")
    assert job["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert job["RetryStrategy"] == {"MaximumRetryAttempts": 7}
    assert job["AlgorithmSpecification"]["TrainingInputMode"] == "FastFile"
    assert (job["EnableNetworkIsolation"], job["EnableInterContainerTrafficEncryption"]) == (False, False)
    assert job["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 60
