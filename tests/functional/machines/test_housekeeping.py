"""What `stepforge gc` lets go, and what it never does, where things were trained and registered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepforge import housekeeping
from stepforge.cli import _gc
from stepforge.comparing import job_facts
from stepforge.connection import Connection
from stepforge.contracts.jobs import JobOutcome, JobSpec
from stepforge.contracts.names import endpoint_name, package_group
from stepforge.contracts.registry import ExternalLineage, PackageMetadata, TrainOutput
from stepforge.contracts.work import DatasetWork, GateWork
from stepforge.economics import ledger
from stepforge.economics.costs import Costs
from stepforge.errors import EnvironmentUnavailable, InvalidInput
from stepforge.housekeeping import Housekeeping
from stepforge.jobs import Jobs
from stepforge.machines import attempts
from stepforge.machines.deployment import OWNER_TAG
from stepforge.submitting import submission
from tests.functional.local_aws.helpers import ROLE
from tests.infra.machines import LOCAL
from tests.infra.principals import Cloud
from tests.support.iam import decide
from tests.support.iam_calls import listen, requests

from .conftest import CODE, IMAGE, Deployed
from .fake_image import ENDLESS, FOREVER


@pytest.fixture(scope="module")
def registered(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(deployed.pipeline(seed=301, rate=0.3, stages=1))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


@pytest.fixture(scope="module")
def failed(deployed: Deployed) -> str:
    """The pipeline of a run whose dataset crashed."""
    spec = deployed.pipeline(seed=307, rate=0.31, stages=1)
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


# ── Jobs by themselves ───────────────────────────────────────────────────────────────────────────


def dataset(seed: int) -> JobSpec:
    return JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])


def done(deployed: Deployed, spec: JobSpec) -> JobOutcome:
    """Submit a job by itself, and wait for its end."""
    name = submission.submit(deployed.connection, spec).name
    assert [end.ending for end in Jobs(deployed.connection).wait(name)] == ["Completed"]
    s3, job = deployed.connection.client("s3"), Jobs(deployed.connection).get(name)
    return attempts.completed(s3, job, bucket=deployed.bucket, adopted=False)


def later(monkeypatch: pytest.MonkeyPatch, *, days: float) -> None:
    """Every look from now on is so many days from now."""
    then = datetime.now(UTC) + timedelta(days=days)
    clock = type("Later", (), {"now": staticmethod(lambda _: then)})
    monkeypatch.setattr(housekeeping, "datetime", clock)


def test_what_a_job_by_itself_reads_stays_while_it_is_under_way(deployed: Deployed) -> None:
    made = done(deployed, dataset(401))
    spec = JobSpec(
        domain="facial", work=GateWork(sample=FOREVER), inputs={"data": made.artifact}, code_sha256=CODE["gate"]
    )
    name = submission.submit(deployed.connection, spec).name
    try:
        assert {f"specs/{spec.identity}", f"jobs/{made.name}", f"jobs/{name}"}.isdisjoint(look(deployed, days=40))
    finally:
        Jobs(deployed.connection).stop(name)


def test_what_a_job_by_itself_made_stays_for_as_long_as_its_spec_is_young(deployed: Deployed) -> None:
    made = done(deployed, dataset(402))
    assert f"jobs/{made.name}" not in look(deployed, days=29)
    assert f"jobs/{made.name}" in look(deployed, days=31)


def test_costs_are_booked_before_the_spec_goes_and_the_job_can_still_be_described(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataset(409)
    made = done(deployed, spec)
    s3 = deployed.connection.client("s3")
    assert made.name not in [entry.job for entry in ledger.read(s3, bucket=deployed.bucket).entries]
    with monkeypatch.context() as patch:
        later(patch, days=40)
        cleaner = Housekeeping(deployed.connection)
        group = f"specs/{spec.identity}"
        assert [i.name for i in cleaner.remove([i for i in cleaner.removable() if i.name == group])] == [group]
    assert made.name in [entry.job for entry in Costs(deployed.connection).read().entries]
    facts = job_facts(deployed.connection, Jobs(deployed.connection).get(made.name))
    assert facts.spec is None
    assert "gc" in facts.why
    assert facts.entry is not None
    assert facts.entry.job == made.name


@pytest.mark.parametrize("moment", [2, 3], ids=["before its manifest goes", "after its manifest is gone"])
def test_what_somebody_submits_in_the_middle_of_a_removal_stays(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    spec = dataset(402 + moment)
    made = done(deployed, spec)
    later(monkeypatch, days=40)
    cleaner = Housekeeping(deployed.connection)
    shown = [item for item in cleaner.removable() if item.name == f"jobs/{made.name}"]
    assert [item.kind for item in shown] == ["artifact"]
    looked: list[int] = []
    submissions = Housekeeping._submissions

    def racing(self: Housekeeping) -> dict[str, datetime]:
        """Somebody submits the same job after the second look."""
        looked.append(1)
        if len(looked) == moment:
            submission.put_spec(
                deployed.connection.client("s3"),
                spec,
                bucket=deployed.bucket,
                key_arn=deployed.connection.environment.key_arn,
            )
        return submissions(self)

    monkeypatch.setattr(Housekeeping, "_submissions", racing)
    assert cleaner.remove(shown) == []
    found = submission.submit(deployed.connection, spec)
    assert (found.name, found.action) == (made.name, "adopt")


def test_two_removals_at_once_do_not_both_remove(deployed: Deployed) -> None:
    first, second = Housekeeping(deployed.connection), Housekeeping(deployed.connection)
    with first._alone(), pytest.raises(EnvironmentUnavailable, match="another `stepforge gc --apply`"):
        second.remove([])
    assert second.remove([]) == []


def test_what_cannot_be_read_is_told_and_stops_neither_costs_nor_housekeeping(deployed: Deployed) -> None:
    s3, bad = deployed.aws.client("s3"), f"specs/{'7' * 64}/spec.json"
    keys = {
        bad: b"{",
        "specs/README": b"hello",
        "jobs/": b"",
        "ledger/2026-01-01/README.md": b"",
        "ledger/2026-01-01/sft-aaaaaaaaaaaa-a0.json": b"{}",
    }
    for key, body in keys.items():
        s3.put_object(Bucket=deployed.bucket, Key=key, Body=body)
    try:
        cleaner = Housekeeping(deployed.connection, now=datetime.now(UTC) + timedelta(days=40))
        names = {item.name for item in cleaner.removable()}
        told = " ".join(cleaner.skipped)
        assert {f"specs/{'7' * 64}", "specs/README", "jobs/"}.isdisjoint(names)
        assert all(key in told for key in (bad, "specs/README", "jobs/ "))
        said = " ".join(Costs(deployed.connection).read().skipped)
        assert all(key in said for key in keys if key != "jobs/")
    finally:
        for key in keys:
            s3.delete_object(Bucket=deployed.bucket, Key=key)


def test_a_candidate_that_just_came_up_stays(deployed: Deployed, registered: TrainOutput) -> None:
    sagemaker = deployed.aws.client("sagemaker")
    container = deployed.package(registered.package_arn)["InferenceSpecification"]["Containers"][0]
    name = endpoint_name("stepforge-young", candidate=True)
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    tags = [{"Key": OWNER_TAG, "Value": "arn"}]
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
    try:
        assert name not in look(deployed, days=0.02)
        assert look(deployed, days=0.1)[name].kind == "endpoint"
    finally:
        wait = {"Delay": 1, "MaxAttempts": 120}
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=wait)
        sagemaker.delete_endpoint(EndpointName=name)


def tuned_elsewhere(deployed: Deployed) -> None:
    """A version whose weights a provider keeps: nobody here may describe its job."""
    sagemaker, group = deployed.aws.client("sagemaker"), package_group("gc_tuned", "local")
    job = "arn:aws:sagemaker:us-east-1:000000000000:training-job/ftjob-of-a-provider"
    folder = f"s3://{deployed.bucket}/finetune"
    metadata = PackageMetadata(
        pipeline_sha256="1" * 64, model_sha256="2" * 64, evaluation_sha256="3" * 64, dataset_sha256="4" * 64,
        evaluation_uri=f"{folder}/evaluations/x/", training_job_arn=job, domain="gc_tuned",
    )  # fmt: skip
    lineage = ExternalLineage(
        external_provider="sagemaker", external_job=job, external_model="m", external_handle="m", external_base="b",
        external_key="sf-1", external_request_uri=f"{folder}/requests/{'1' * 64}.json", external_cost_usd="1",
    )  # fmt: skip
    sagemaker.create_model_package_group(ModelPackageGroupName=group)
    sagemaker.create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="PendingManualApproval",
        CustomerMetadataProperties={**metadata.properties(), **lineage.properties()},
    )


def test_a_housekeeper_may_make_every_call_of_a_removal_and_a_viewer_every_call_of_a_look(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, sagemaker = dataset(421), deployed.aws.client("sagemaker")
    made = done(deployed, spec)
    digest = "7" * 64
    others = [f"raw/records/{digest}", f"checkpoints/sft-{digest[:12]}", f"pipelines/{digest}.json"]
    for group in others:
        put(deployed, group if group.endswith(".json") else f"{group}/x")
    name = "stepforge-gc-candidate"
    image = {"Image": IMAGE}
    sagemaker.create_model(ModelName=name, PrimaryContainer=image, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    tuned_elsewhere(deployed)
    sagemaker.create_model_package_group(ModelPackageGroupName="models-of-another-team")
    session = deployed.session
    calls = listen(session)
    connection = Connection("local", session, endpoint_url=deployed.aws.endpoint_url)
    later(monkeypatch, days=40)
    cleaner = Housekeeping(connection)
    mine = {*others, name, f"jobs/{made.name}", f"specs/{spec.identity}"}
    found = [item for item in cleaner.removable() if item.name in mine]
    looked = len(calls)
    gone = cleaner.remove(found)
    assert {item.name for item in gone} == mine
    assert {"DeleteObjects", "DeleteModel", "DeleteEndpointConfig", "PutObject"} <= {call.operation for call in calls}
    people = Cloud(LOCAL).principals
    for person, theirs in (("viewer", calls[:looked]), ("housekeeper", calls)):
        for call in theirs:
            for request in requests(call, stem="us-east-1:000000000000"):
                assert decide(request, identity=people[person].policies) == "allow", (person, request)
