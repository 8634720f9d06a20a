"""What `stepforge gc` lets go, and what it never does, where things were trained and registered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepforge import housekeeping
from stepforge.cli import _gc
from stepforge.contracts.registry import TrainOutput
from stepforge.errors import InvalidInput
from stepforge.housekeeping import Housekeeping
from tests.functional.local_aws.helpers import ROLE

from .conftest import Deployed
from .fake_image import ENDLESS


@pytest.fixture(scope="module")
def registered(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(deployed.pipeline(seed=301, rate=0.3, stages=1))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


@pytest.fixture(scope="module")
def failed(deployed: Deployed) -> str:
    """The pipeline of a run whose dataset crashed."""
    spec = deployed.pipeline(seed=7, rate=0.31, stages=1)
    assert deployed.train(spec)["status"] == "FAILED"
    return spec.identity


def look(deployed: Deployed, *, days: float) -> dict[str, housekeeping.Removable]:
    """What can go so many days from now."""
    later = datetime.now(UTC) + timedelta(days=days)
    return {item.name: item for item in Housekeeping(deployed.connection, keep_days=30, now=later).removable()}


def needed(output: TrainOutput) -> set[str]:
    jobs = (output.dataset, output.gate, *output.stages, output.evaluation)
    return {f"jobs/{job.name}" for job in jobs}


def put(deployed: Deployed, key: str) -> None:
    deployed.aws.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=b"x" * 100)


def test_what_was_just_written_stays_whatever_it_is(deployed: Deployed, registered: TrainOutput, failed: str) -> None:
    put(deployed, f"checkpoints/{registered.stages[0].name.rpartition('-')[0]}/step-1/weights")
    assert [item for item in look(deployed, days=0.03).values() if item.bytes] == []


def test_a_versions_lineage_stays_for_ever_and_what_nothing_refers_to_goes(
    deployed: Deployed, registered: TrainOutput, failed: str
) -> None:
    put(deployed, "raw/records/" + "d" * 64 + "/records.jsonl")
    found = look(deployed, days=1_000)
    assert needed(registered).isdisjoint(found)
    specs = {f"specs/{job_spec(deployed, job.name)}" for job in (registered.dataset, registered.stages[0])}
    assert specs.isdisjoint(found)
    assert found["raw/records/" + "d" * 64].reason == "no version and no run of late refers to it"
    assert found[f"pipelines/{failed}.json"].kind == "pipeline"
    checkpoints = f"checkpoints/{registered.stages[0].name.rpartition('-')[0]}"
    put(deployed, f"{checkpoints}/step-1/weights")
    assert look(deployed, days=1)[checkpoints].reason == "the job is done"


def job_spec(deployed: Deployed, job: str) -> str:
    sagemaker = deployed.aws.client("sagemaker")
    return sagemaker.describe_training_job(TrainingJobName=job)["HyperParameters"]["spec_sha256"]


@pytest.mark.slow
def test_a_recent_run_keeps_what_it_refers_to_and_later_it_goes(deployed: Deployed, failed: str) -> None:
    assert f"pipelines/{failed}.json" not in look(deployed, days=29)
    assert f"pipelines/{failed}.json" in look(deployed, days=31)


@pytest.mark.slow
def test_a_run_that_is_under_way_loses_nothing(deployed: Deployed) -> None:
    from stepforge.pipelines import Pipelines

    run = Pipelines(deployed.connection).start(deployed.pipeline(seed=ENDLESS, rate=0.32, stages=1))
    try:
        spec = run.jobs()[0].spec
        found = look(deployed, days=1_000)
        assert {f"specs/{spec.identity}", f"pipelines/{run.spec.identity}.json"}.isdisjoint(found)
    finally:
        run.stop()


def test_apply_removes_what_was_shown_and_nothing_that_changed_since(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = "raw/records/" + "e" * 64, "raw/records/" + "f" * 64
    for folder in (kept, gone):
        put(deployed, f"{folder}/records.jsonl")
        put(deployed, f"{folder}/manifest.json")
    later = datetime.now(UTC) + timedelta(days=60)
    monkeypatch.setattr(housekeeping, "datetime", type("Later", (), {"now": staticmethod(lambda _: later)}))
    cleaner = Housekeeping(deployed.connection, keep_days=30)
    shown = [item for item in cleaner.removable() if item.name in (kept, gone)]
    assert [(item.bytes, len(item.keys)) for item in shown] == [(200, 2), (200, 2)]
    put(deployed, f"{kept}/more.jsonl")
    assert [item.name for item in cleaner.remove(shown)] == [gone]
    s3 = deployed.aws.client("s3")
    assert s3.list_objects_v2(Bucket=deployed.bucket, Prefix=kept)["KeyCount"] == 3
    assert s3.list_objects_v2(Bucket=deployed.bucket, Prefix=gone)["KeyCount"] == 0


@pytest.mark.slow
def test_the_command_shows_sizes_and_reasons_and_changes_nothing_by_itself(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "raw/records/" + "9" * 64
    put(deployed, f"{folder}/records.jsonl")
    later = datetime.now(UTC) + timedelta(days=60)
    monkeypatch.setattr(housekeeping, "datetime", type("Later", (), {"now": staticmethod(lambda _: later)}))
    client: Any = type("Client", (), {"connection": deployed.connection})
    _gc.gc(client, apply=False, keep_days=30, as_json=True)
    document = json.loads(capsys.readouterr().out)
    item = next(item for item in document["items"] if item["name"] == folder)
    assert item == {
        "kind": "upload",
        "name": folder,
        "reason": "no version and no run of late refers to it",
        "bytes": 100,
    }
    assert document["applied"] is False
    assert deployed.aws.client("s3").list_objects_v2(Bucket=deployed.bucket, Prefix=folder)["KeyCount"] == 1
    with pytest.raises(InvalidInput, match="keep_days 0 must be 1 or more"):
        Housekeeping(deployed.connection, keep_days=0)


@pytest.mark.slow
def test_what_no_endpoint_has_goes_and_what_serves_stays(deployed: Deployed, registered: TrainOutput) -> None:
    sagemaker = deployed.aws.client("sagemaker")
    package = deployed.package(registered.package_arn)
    container = package["InferenceSpecification"]["Containers"][0]
    for name in ("stepforge-gc-serves", "stepforge-gc-idle"):
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="stepforge-gc", EndpointConfigName="stepforge-gc-serves")
    try:
        found = look(deployed, days=60)
        assert found["stepforge-gc-idle"].reason == "no endpoint has it"
        assert {"stepforge-gc", "stepforge-gc-serves"}.isdisjoint(found)
        assert "stepforge-gc-idle" not in look(deployed, days=20)
    finally:
        sagemaker.delete_endpoint(EndpointName="stepforge-gc")
