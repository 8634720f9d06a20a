"""What runs on the local AWS are booked as, and what starting them calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.names import Keys, execution_name
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.resources import Resources
from stepforge.contracts.work import DatasetWork
from stepforge.economics import ledger
from stepforge.economics.costs import Costs
from stepforge.pipelines import Pipelines
from stepforge.plans import Planner
from stepforge.plans.checks import needed_by_caller, needed_to_look
from stepforge.submitting import transfers
from stepforge.submitting.submission import submit
from tests.functional.local_aws.helpers import wait

from .conftest import CODE, Deployed
from .fake_image import ENDLESS


def test_a_run_books_what_each_of_its_jobs_cost_once(deployed: Deployed, trained: TrainOutput) -> None:
    s3, jobs = deployed.aws.client("s3"), [trained.dataset, trained.gate, *trained.stages, trained.evaluation]
    found = ledger.read(s3, bucket=deployed.bucket).entries
    mine = [entry for entry in found if entry.job in {job.name for job in jobs}]
    assert sorted(entry.stage for entry in mine) == ["dataset", "evaluate", "gate", "sft", "srl"]
    assert {(e.domain, e.environment, e.region) for e in mine} == {("facial", "local", "us-east-1")}
    assert {e.run for e in mine} == {execution_name("train", deployed.pipeline().identity, 1)}
    assert {e.model for e in mine if e.type in ("sft", "srl", "evaluate")} == {"scratch-64x3-64"}
    assert all(e.usd == pytest.approx((e.billable_seconds or 0) / 3600 * 1.408) for e in mine)

    versions = [mine[0].model_copy(update={"job": "sft-0123456789ab-a0", "units": float(n)}) for n in range(40)]
    key_arn = deployed.connection.environment.key_arn
    with ThreadPoolExecutor(16) as pool:
        wrote = list(pool.map(lambda e: ledger.write(s3, e, bucket=deployed.bucket, key_arn=key_arn), versions))
    (kept,) = (e for e in ledger.read(s3, bucket=deployed.bucket).entries if e.job == versions[0].job)
    s3.delete_object(Bucket=deployed.bucket, Key=Keys.ledger(kept.ended.date().isoformat(), kept.job))
    assert (sum(wrote), kept) == (1, versions[wrote.index(True)])


def test_costs_book_a_job_whose_end_no_machine_saw(deployed: Deployed) -> None:
    spec = JobSpec(domain="alone", work=DatasetWork(domain="alone", seed=42), code_sha256=CODE["dataset"])
    job = submit(deployed.connection, spec, Resources(instance_type="ml.m4.xlarge")).name
    sagemaker = deployed.aws.client("sagemaker")
    wait(lambda: sagemaker.describe_training_job(TrainingJobName=job)["TrainingJobStatus"], lambda s: s == "Completed")
    costs = Costs(deployed.connection).read()
    (entry,) = (entry for entry in costs.entries if entry.domain == "alone")
    assert (entry.job, entry.run, entry.usd, entry.status) == (job, "", None, "Completed")
    (row,) = (row for row in costs.by("domain") if row.key == "alone")
    assert (row.usd, row.unpriced) == (None, ("ml.m4.xlarge",))
    assert Costs(deployed.connection).read().healed == 0


_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
}


def test_planning_and_starting_call_nothing_that_the_list_of_permissions_lacks(
    deployed: Deployed, tmp_path: Path
) -> None:
    connection = deployed.connection
    called: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        service = model.service_model.endpoint_prefix.replace("api.sagemaker", "sagemaker")
        called.add(_ACTIONS.get(model.name, f"{service}:{model.name}"))

    for name in ("s3", "sagemaker", "stepfunctions"):
        connection.client(name).meta.events.register("before-call", note)
    spec = deployed.pipeline(seed=ENDLESS, rate=0.37, stages=1)
    needed = {action for one in needed_to_look(connection.environment) for action in one.actions}
    Planner(connection).pipeline(spec)
    assert called
    assert called <= needed
    (tmp_path / "records.jsonl").write_text("{}")
    transfers.upload(connection, tmp_path, write_manifest(tmp_path, "records"))
    run = Pipelines(connection).start(spec)
    allowed = {action for one in needed_by_caller(connection.environment, (), machine=True) for action in one.actions}
    try:
        assert called <= allowed
        assert called >= {"s3:PutObject", "states:StartExecution"}
    finally:
        run.stop()
