"""The committed machines, handlers and template on the local AWS: a pipeline to its end, and what fails on the way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from stepforge.cli import _runs
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.names import Keys
from stepforge.contracts.pipelines import PipelineSpec, PipelineState, next_job
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.work import DatasetWork
from stepforge.errors import RunFailed
from stepforge.local.deploy import deploy
from stepforge.pipelines import Pipelines
from stepforge.submitting.submission import Submission, submit

from .conftest import CODE, Deployed


def own(deployed: Deployed) -> PipelineSpec:
    """What all tests share is approved by other files, and what they promote meanwhile is another champion."""
    return deployed.pipeline(seed=314)


@pytest.fixture(scope="module")
def trained(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(own(deployed))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


def test_deploying_again_does_nothing(deployed: Deployed) -> None:
    assert deploy(deployed.aws) is False


def test_a_pipeline_ends_as_a_package_that_waits_for_a_person(deployed: Deployed, trained: TrainOutput) -> None:
    package = deployed.package(trained.package_arn)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"]["model_sha256"] == trained.stages[-1].artifact.sha256
    assert [stage.type for stage in trained.stages] == ["sft", "srl"]
    assert package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"].endswith("evaluation.json")


def test_a_second_run_adopts_every_job_and_the_package(deployed: Deployed, trained: TrainOutput) -> None:
    jobs = deployed.jobs()
    ended = deployed.train(own(deployed), number=2)
    again = TrainOutput.model_validate_json(ended["output"])
    assert all(job.adopted for job in (again.dataset, again.gate, *again.stages, again.evaluation))
    assert again.adopted
    assert again.package_arn == trained.package_arn
    assert deployed.jobs() == jobs

    runs = Pipelines(deployed.connection)
    second, first = runs.overview(most=2)
    assert (first.status, first.domain, first.accepted["test_new"]) == ("SUCCEEDED", "facial", 0.5)
    assert 0 < second.seconds < first.seconds
    assert runs.get("facial").name == runs.get("latest").name == second.name
    told = [[(e.kind, e.data.get("adopted")) for e in runs.get(run.name).follow()] for run in (first, second)]
    assert {("stage", False), ("done", False), ("log", None)} >= set(told[0])
    assert told[1] == [("stage", True), ("done", True)] * 5


def test_data_that_fails_the_gate_is_refused_by_record_and_rule(deployed: Deployed) -> None:
    ended = deployed.train(deployed.pipeline(seed=13))
    assert (ended["status"], ended["error"]) == ("FAILED", "GateRefused")
    assert ended["cause"] == (
        "the data failed the gate: record 'r-42', leak rule 'disjoint': its group is in train and in test (2 more)"
    )


def test_a_failed_job_gives_its_own_words_and_the_next_run_takes_the_next_attempt(deployed: Deployed) -> None:
    spec = deployed.pipeline(seed=7)
    for number in (1, 2):
        ended = deployed.train(spec, number=number)
        assert (ended["status"], ended["error"]) == ("FAILED", "AlgorithmError")
        assert "line 17 of the records is malformed" in ended["cause"]
        assert "{" not in ended["cause"]
        assert "output" not in ended
    assert "FAILED" in [run.status for run in Pipelines(deployed.connection).overview()]
    state = PipelineState(pipeline_uri=f"s3://{deployed.bucket}/any", pipeline_sha256=spec.identity)
    dataset = next_job(spec, state)
    assert dataset is not None
    jobs = deployed.aws.client("sagemaker").list_training_jobs(NameContains=dataset.prefix)["TrainingJobSummaries"]
    assert sorted(job["TrainingJobName"] for job in jobs) == [f"{dataset.prefix}-a0", f"{dataset.prefix}-a1"]


def test_a_job_that_ends_without_a_manifest_has_failed_and_poisons_nothing(
    deployed: Deployed, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = deployed.pipeline(seed=8)
    for number in (0, 1):
        run = client.pipelines.start(spec)
        with pytest.raises(RunFailed, match=r"AlgorithmError.* left no sound manifest\.json") as failed:
            _runs.follow(run, as_json=False)
        assert failed.value.exit_code == 4
        said = capsys.readouterr().err
        assert "left no sound manifest" in said
        assert "done in" not in said
        planned = run.jobs()
        assert [(job.attempt.name[-3:], job.attempt.status) for job in planned] == [(f"-a{number}", "Failed")]
        assert run.stop().status == "FAILED (AlgorithmError)"


def test_another_spec_under_the_same_uri_is_an_identity_conflict(deployed: Deployed) -> None:
    spec, other = deployed.pipeline(seed=20), deployed.pipeline(seed=21)
    key = Keys.pipeline(spec.identity)
    deployed.aws.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=canonical_json(other))
    state = {"pipeline_uri": f"s3://{deployed.bucket}/{key}", "pipeline_sha256": spec.identity}
    ended = deployed.run("train", "train-conflict", state)
    assert (ended["error"], other.identity in ended["cause"]) == ("IdentityConflict", True)


def test_a_job_submitted_twice_is_created_once_and_then_adopted(deployed: Deployed) -> None:
    spec = JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=4_711), code_sha256=CODE["dataset"])
    connection = deployed.connection
    sagemaker = connection.client("sagemaker")

    first, second = submit(connection, spec), submit(connection, spec)
    deadline = time.monotonic() + 30
    while (job := sagemaker.describe_training_job(TrainingJobName=first.name))["TrainingJobStatus"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert (first.action, second.action, second.name) == ("create", "poll", first.name)
    assert job["TrainingJobStatus"] == "Completed", job
    assert submit(connection, spec) == Submission(first.name, "adopt")
