"""The real ModelTrainer of sagemaker v3, in an environment of its own, submits the job that we would submit.

STEPFORGE_SAGEMAKER_PYTHON names the Python of an environment that has it already; without, one is made (1 GB).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stepforge import logs
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.work import DatasetWork
from stepforge.submitting.submission import Submission, submit

from .conftest import CODE, Deployed

ROOT = Path(__file__).resolve().parents[3]
DECIDED_LATER = {
    "TrainingJobArn", "TrainingJobStatus", "SecondaryStatus", "SecondaryStatusTransitions", "CreationTime",
    "LastModifiedTime", "TrainingStartTime", "TrainingEndTime", "TrainingTimeInSeconds", "BillableTimeInSeconds",
    "ResponseMetadata", "FailureReason", "FinalMetricDataList",
}  # fmt: skip


@pytest.fixture(scope="session")
def sagemaker_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    if given := os.environ.get("STEPFORGE_SAGEMAKER_PYTHON"):
        return given
    home = tmp_path_factory.mktemp("sagemaker")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["sagemaker"]
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *extra]
    subprocess.run(pip, check=True, timeout=1500)
    return python


def spec_of(seed: int) -> JobSpec:
    return JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])


def by_model_trainer(python: str, deployed: Deployed, spec: JobSpec) -> dict[str, Any]:
    aws = deployed.aws
    given = {
        "endpoint_url": aws.endpoint_url,
        "access_key_id": aws.access_key_id,
        "secret_access_key": aws.secret_access_key,
        "region": aws.region,
        "spec": spec.model_dump_json(),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [python, str(ROOT / "tests" / "support" / "sagemaker_submission.py")],
        input=json.dumps(given),
        env={**kept, **logs.environment(), "PYTHONPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def described(deployed: Deployed, name: str, spec: JobSpec) -> dict[str, Any]:
    """A job and its tags, without what is decided later, its own identity written as one word."""
    sagemaker = deployed.aws.client("sagemaker")
    job = sagemaker.describe_training_job(TrainingJobName=name)
    tags = sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    plain = {key: value for key, value in job.items() if key not in DECIDED_LATER}
    text = json.dumps({**plain, "Tags": sorted(tags, key=lambda tag: tag["Key"])}, default=str, sort_keys=True)
    named: dict[str, Any] = json.loads(text.replace(spec.identity, "IDENTITY").replace(spec.identity[:12], "SHORT"))
    # The client sends an empty map for none, and no list for an empty one.
    named["AlgorithmSpecification"].setdefault("MetricDefinitions", [])
    return {key: value for key, value in named.items() if value not in ({}, None)}


@pytest.mark.slow
def test_its_job_is_ours_by_every_field_and_is_adopted(deployed: Deployed, sagemaker_python: str) -> None:
    theirs, ours = spec_of(1201), spec_of(1202)
    found = by_model_trainer(sagemaker_python, deployed, theirs)
    submitted = submit(deployed.connection, ours)

    assert found["job"] == f"{theirs.prefix}-a0"
    assert described(deployed, found["job"], theirs) == described(deployed, submitted.name, ours)
    again = submit(deployed.connection, theirs)
    assert (again.name, again.action in ("poll", "adopt")) == (found["job"], True)
    assert isinstance(again, Submission)
