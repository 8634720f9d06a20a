"""A trace goes from who starts a run or submits a job to the lines that the job logs, and decides nothing about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepforge import logs
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import MANIFEST, write_manifest
from stepforge.contracts.names import parameter
from stepforge.contracts.work import DatasetWork
from stepforge.following.jobs_log import LogTail
from stepforge.local import Image, register_images
from stepforge.machines import executions
from stepforge.submitting.submission import spec_request, submit
from tests.functional.local_aws.helpers import ended, wait

from .conftest import CODE, IMAGE, REPOSITORY, Deployed

TRACE = "1-67890abc-0123456789abcdef01234567"
ROOT = Path(__file__).resolve().parents[3]
JOB = """
import logging, sys, time
sys.path[:0] = [{sdk!r}, {jobs!r}]
from stepforge_jobs.job import base_dir
from stepforge_jobs.main import configure_logs
base = base_dir()
configure_logs(base)
logging.getLogger("job").info("at work")
(base / "model" / "records.jsonl").write_text("1\\n")
(base / "model" / {name!r}).write_text({manifest!r})
"""


@pytest.fixture(scope="module", autouse=True)
def speaking(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image whose jobs begin as the real ones do, and log one line."""
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "records.jsonl").write_text("1\n")
    write_manifest(folder, "dataset")
    text = (folder / MANIFEST).read_text()
    program = JOB.format(sdk=str(ROOT / "sdk"), jobs=str(ROOT / "jobs"), name=MANIFEST, manifest=text)
    repository = f"{REPOSITORY}-speaking"
    register_images({repository: Image(argv_train=("python", "-c", program))})
    image = f"{repository}@sha256:{'0' * 64}"
    ssm = deployed.aws.client("ssm")
    for published in (image, IMAGE):
        ssm.put_parameter(Name=parameter("local", "images/train"), Value=published, Type="String", Overwrite=True)
        if published == image:
            yield image


def spec_of(seed: int) -> JobSpec:
    return JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])


def lines_of(deployed: Deployed, job: str) -> list[dict[str, Any]]:
    """What a job logged."""
    assert ended(deployed.aws, job)["TrainingJobStatus"] == "Completed"

    def look() -> list[dict[str, Any]]:
        return [json.loads(line.text) for line in LogTail(deployed.aws.client("logs"), job).read()]

    return wait(look, lambda lines: any(line["message"] == "at work" for line in lines))


def test_a_trace_goes_from_the_start_of_a_machine_to_the_lines_of_its_job(deployed: Deployed) -> None:
    spec = spec_of(70_101)
    request = spec_request(deployed.connection.environment, spec)
    s3 = deployed.aws.client("s3")
    s3.put_object(Bucket=deployed.bucket, Key=request.spec_uri.split("/", 3)[3], Body=spec.model_dump_json().encode())
    with logs.context(trace_id=TRACE):
        started = executions.start_or_adopt(
            deployed.aws.client("stepfunctions"),
            deployed.machines["run-job"],
            "run-job",
            spec.identity,
            request.model_dump(mode="json"),
        )
    done = deployed.ended(started.arn)
    assert done["status"] == "SUCCEEDED", done.get("cause")
    name = json.loads(done["output"])["name"]
    begins, at_work = lines_of(deployed, name)
    assert (at_work["trace_id"], at_work["request_id"], at_work["service"]) == (TRACE, name, "stepforge.job")
    job = deployed.aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    assert begins["requested_by"] == job["Environment"]["STEPFORGE_REQUEST_ID"]


def test_a_job_has_the_trace_and_session_of_who_created_it_and_is_adopted_under_another(deployed: Deployed) -> None:
    spec = spec_of(70_102)
    with logs.context(trace_id=TRACE, session_id="ann", request_id="call-1"):
        first = submit(deployed.connection, spec)
    with logs.context(trace_id="1-00000000-000000000000000000000000", session_id="bob"):
        second = submit(deployed.connection, spec)
    assert (second.name, second.action == "create") == (first.name, False)
    begins, at_work = lines_of(deployed, first.name)
    assert begins["requested_by"] == "call-1"
    assert (at_work["trace_id"], at_work["session_id"]) == (TRACE, "ann")
