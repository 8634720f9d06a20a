"""The committed machines, handlers and template on the local AWS, from a pipeline to an endpoint."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stepforge import local, pace, transfers
from stepforge.cli import _plan, _predict, _registry, _runs
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobOutcome, JobRequest, JobSpec
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.names import Keys, endpoint_name, execution_name, package_group, split_uri
from stepforge.contracts.pipelines import PipelineState, next_job
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.resources import Resources, Vpc
from stepforge.contracts.work import DatasetWork
from stepforge.economics import ledger
from stepforge.economics.costs import Costs
from stepforge.errors import InvalidInput, RunFailed
from stepforge.jobs import Jobs
from stepforge.local.deploy import deploy
from stepforge.pace import Pace
from stepforge.pipelines import Pipelines
from stepforge.plans import Planner
from stepforge.plans.checks import needed_by_caller, needed_to_look
from stepforge.registry import Registry
from stepforge.submission import Submission, submit, submit_after
from tests.functional.local_aws.helpers import wait

from .conftest import CODE, IMAGE, Deployed, deaf
from .fake_image import ENDLESS, LIAR

GROUP = package_group("facial", "local")


@pytest.fixture(scope="session")
def trained(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(deployed.pipeline())
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


def ask(deployed: Deployed, prompt: str) -> dict[str, object]:
    answer = deployed.aws.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint_name(GROUP),
        ContentType="application/json",
        Body=json.dumps({"records": [{"prompt": prompt}]}),
    )
    return json.loads(answer["Body"].read())


def candidate_exists(deployed: Deployed) -> bool:
    names = [e["EndpointName"] for e in deployed.aws.client("sagemaker").list_endpoints()["Endpoints"]]
    return endpoint_name(GROUP, candidate=True) in names


def test_deploying_again_does_nothing(deployed: Deployed) -> None:
    assert deploy(deployed.aws) is False


def test_a_pipeline_ends_as_a_package_that_waits_for_a_person(deployed: Deployed, trained: TrainOutput) -> None:
    package = deployed.package(trained.package_arn)
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"]["model_sha256"] == trained.stages[-1].artifact.sha256
    assert [stage.type for stage in trained.stages] == ["sft", "srl"]
    assert trained.comparison.champion is None
    assert package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"].endswith("evaluation.json")


def test_a_second_run_adopts_every_job_and_the_package(deployed: Deployed, trained: TrainOutput) -> None:
    jobs = deployed.aws.client("sagemaker").list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
    ended = deployed.train(deployed.pipeline(), number=2)
    again = TrainOutput.model_validate_json(ended["output"])
    assert all(job.adopted for job in (again.dataset, again.gate, *again.stages, again.evaluation))
    assert again.adopted
    assert again.package_arn == trained.package_arn
    assert len(deployed.aws.client("sagemaker").list_training_jobs(MaxResults=100)["TrainingJobSummaries"]) == len(jobs)

    runs = Pipelines(deployed.connection)
    second, first = runs.overview(most=2)
    assert (first.status, first.domain, first.accepted["test_new"]) == ("SUCCEEDED", "facial", 0.5)
    assert 0 < second.seconds < first.seconds
    assert runs.get("facial").name == runs.get("latest").name == second.name
    told = [[(e.kind, e.data.get("adopted")) for e in runs.get(run.name).follow()] for run in (first, second)]
    assert {("stage", False), ("done", False), ("log", None)} >= set(told[0])
    assert told[1] == [("stage", True), ("done", True)] * 5


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


def test_an_approval_puts_the_model_behind_the_endpoint(deployed: Deployed, trained: TrainOutput) -> None:
    ended = deployed.approve(trained.package_arn)
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    assert ask(deployed, "hello")["model_sha256"] == trained.stages[-1].artifact.sha256
    package = deployed.package(trained.package_arn)
    assert package["ModelLifeCycle"]["Stage"] == "Production"
    assert package["CustomerMetadataProperties"]["promotion"] == "deployed"
    assert not candidate_exists(deployed)


def test_a_model_that_answers_otherwise_leaves_the_old_one_answering(deployed: Deployed, trained: TrainOutput) -> None:
    if deployed.package(trained.package_arn).get("ModelLifeCycle", {}).get("Stage") != "Production":
        deployed.approve(trained.package_arn)
    liar = TrainOutput.model_validate_json(deployed.train(deployed.pipeline(rate=LIAR, stages=1))["output"])
    assert liar.comparison.champion == trained.package_arn
    ended = deployed.approve(liar.package_arn)
    assert (ended["status"], ended["error"]) == ("FAILED", "SmokeFailed")
    assert ask(deployed, "hello")["model_sha256"] == trained.stages[-1].artifact.sha256
    assert not candidate_exists(deployed)
    package = deployed.package(liar.package_arn)
    assert package["CustomerMetadataProperties"]["promotion"] == "failed"
    assert "nonsense" in package["ApprovalDescription"]


def test_an_altered_artifact_is_refused_with_the_reason(deployed: Deployed) -> None:
    output = TrainOutput.model_validate_json(deployed.train(deployed.pipeline(seed=30, stages=1))["output"])
    bucket, prefix = split_uri(output.stages[-1].artifact.uri)
    deployed.aws.client("s3").put_object(Bucket=bucket, Key=prefix + "model.safetensors", Body=b"?")
    ended = deployed.approve(output.package_arn)
    assert (ended["status"], ended["error"]) == ("FAILED", "ArtifactRefused")
    assert "model.safetensors has SHA-256" in ended["cause"]
    assert deployed.package(output.package_arn)["CustomerMetadataProperties"]["promotion"] == "refused"


# ── What people see of it ────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def client(deployed: Deployed) -> Any:
    """A client of the running server; `Client("local")` would deploy the real images over the fake one."""
    connection = deployed.connection
    return SimpleNamespace(connection=connection, registry=Registry(connection), pipelines=Pipelines(connection))


@pytest.fixture(scope="module")
def newest(deployed: Deployed) -> str:
    """A version that waits for a person: what `stepforge registry` calls it."""
    ended = deployed.train(deployed.pipeline(seed=40, stages=1), number=0)
    return f"facial/{TrainOutput.model_validate_json(ended['output']).version}"


def test_a_run_that_was_followed_ends_with_its_scores_and_the_gates_word(
    deployed: Deployed, client: Any, newest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = client.pipelines.find(deployed.pipeline(seed=40, stages=1))
    _runs.follow(run, as_json=False)
    said = capsys.readouterr().out
    for split in ("test_known", "test_new", "test_retained"):
        assert f"{split} 50.0 % (40.0–60.0) 50.0 % (40.0–60.0) 10" in " ".join(said.split())
    assert "champion: " in said
    assert f"registry approve {newest}" in said
    _runs.follow(run, as_json=True)
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert len(rows) == 6
    assert rows[0] == {
        "split": "test_known",
        "decoding": "greedy",
        "accepted": 0.5,
        "low": 0.4,
        "high": 0.6,
        "records": 10,
    }


def test_list_and_show_have_scores_and_state(client: Any, newest: str, capsys: pytest.CaptureFixture[str]) -> None:
    _registry.print_packages(client, "facial", as_json=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(newest))
    assert "PendingManualApproval" in line
    assert line.count("50.0 / 50.0") == 3
    _registry.print_package(client, client.registry.get(newest), as_json=False)
    said = capsys.readouterr().out
    assert said.startswith(f"{newest}: PendingManualApproval\n")
    assert "50.0 % (40.0–60.0)" in said
    assert "champion gate: " in said


def test_one_version_takes_the_others_place_and_gives_it_back(
    deployed: Deployed, client: Any, trained: TrainOutput, newest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = f"facial/{trained.version}"

    def approve(name: str) -> str:
        _registry.approve(client, name, comment="why", wait=True, though_rejected=False, as_json=False)
        return "".join(capsys.readouterr())

    def answering() -> str:
        _predict.predict(client, "facial", ["p1"], temperature=0, seed=0, export=None, out=Path(), as_json=True)
        return str(json.loads(capsys.readouterr().out)["model_sha256"])

    def states() -> tuple[str, str]:
        return client.registry.get(old).state, client.registry.get(newest).state

    if states()[0] != "Production":
        approve(old)
    assert "serves already, so nothing is promoted" in approve(old)
    assert f"{newest} answers at its endpoint" in approve(newest)
    assert states() == ("superseded", "Production")
    assert answering() == client.registry.get(newest).artifact.sha256

    # The way back: the old version's first promotion is not taken for this one.
    assert "takes its place back" in approve(old)
    assert states() == ("Production", "superseded")
    assert answering() == trained.stages[-1].artifact.sha256

    _registry.reject(client, newest, comment="worse", as_json=False)
    assert "is not promoted" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match=r"was rejected \(worse\): .*--yes"):
        approve(newest)
    _registry.reject(client, old, comment="worse too", as_json=False)
    assert "but answers at its endpoint until another is approved" in capsys.readouterr().out
    assert states() == ("Production, though Rejected by now", "rejected")


# ── Decisions that change ────────────────────────────────────────────────────────────────────────


def another_version(deployed: Deployed, arn: str) -> str:
    """The same weights and evaluation, registered once more."""
    found = deployed.package(arn)
    kept = {
        key: found[key] for key in ("ModelPackageGroupName", "InferenceSpecification", "CustomerMetadataProperties")
    }
    kept["CustomerMetadataProperties"] = {
        key: value for key, value in kept["CustomerMetadataProperties"].items() if not key.startswith("promotion")
    }
    created = deployed.aws.client("sagemaker").create_model_package(ModelApprovalStatus="PendingManualApproval", **kept)
    return created["ModelPackageArn"]


def promotions(deployed: Deployed, package: str) -> list[str]:
    """The executions for a package, oldest first."""
    states = deployed.aws.client("stepfunctions")
    found = sorted(deployed.executions("promote"), key=lambda execution: execution["startDate"])
    described = [states.describe_execution(executionArn=execution["executionArn"]) for execution in found]
    return [d["executionArn"] for d in described if json.loads(d["input"])["package_arn"] == package]


def serving(deployed: Deployed) -> str | None:
    """What the live endpoint serves; None where there is none."""
    sagemaker = deployed.aws.client("sagemaker")
    names = [endpoint["EndpointName"] for endpoint in sagemaker.list_endpoints()["Endpoints"]]
    return sagemaker.describe_endpoint(EndpointName=GROUP)["EndpointConfigName"] if GROUP in names else None


def entered(deployed: Deployed, execution: str) -> dict[str, datetime]:
    """The states that an execution went through, and when it entered each for the first time."""
    history = deployed.aws.client("stepfunctions").get_execution_history(executionArn=execution, maxResults=1000)
    found: dict[str, datetime] = {}
    for event in history["events"]:
        if "stateEnteredEventDetails" in event:
            found.setdefault(event["stateEnteredEventDetails"]["name"], event["timestamp"])
    return found


def decide(deployed: Deployed, package: str, approval: str) -> None:
    deployed.aws.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus=approval)


def test_a_decision_counts_while_a_promotion_runs(deployed: Deployed, trained: TrainOutput) -> None:
    registry = Registry(deployed.connection)
    package = another_version(deployed, trained.package_arn)

    # Taken back before the live endpoint is touched: it is not touched.
    served = serving(deployed)
    decide(deployed, package, "Approved")
    first = wait(lambda: promotions(deployed, package), bool)[0]
    wait(lambda: entered(deployed, first), lambda states: "WaitForCandidate" in states)
    decide(deployed, package, "Rejected")
    ended = deployed.ended(first)
    assert (ended["status"], ended["error"]) == ("FAILED", "ArtifactRefused")
    assert "is Rejected by now" in ended["cause"]
    assert serving(deployed) == served
    assert not candidate_exists(deployed)

    # Taken back and given again: the second waits until the first has done with the candidate, and promotes it again.
    decide(deployed, package, "Approved")
    time.sleep(1)  # an approval's id is to the second
    second = wait(lambda: promotions(deployed, package), lambda found: len(found) == 2)[1]
    wait(lambda: entered(deployed, second), lambda states: "WaitForCandidate" in states)
    decide(deployed, package, "Rejected")
    decide(deployed, package, "Approved")
    approved = registry.get(package)
    third = wait(lambda: promotions(deployed, package), lambda found: len(found) == 3)[2]
    assert registry.wait_promoted(approved).status == "SUCCEEDED"
    for execution in (second, third):
        ended = deployed.ended(execution)
        assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    assert entered(deployed, third)["WaitForCandidate"] > entered(deployed, second)["RemoveCandidate"]
    found = deployed.package(package)
    assert found["CustomerMetadataProperties"]["promotion"] == "deployed"
    assert found["ModelLifeCycle"]["Stage"] == "Production"
    assert serving(deployed) != served
    assert not candidate_exists(deployed)


def on_approval(deployed: Deployed) -> str:
    names = [f["FunctionName"] for f in deployed.aws.client("lambda").list_functions()["Functions"]]
    (name,) = [name for name in names if "approval" in name.lower()]
    return name


def handle(deployed: Deployed, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Let the handler of approvals have an event of EventBridge."""
    answer = deployed.aws.client("lambda").invoke(FunctionName=on_approval(deployed), Payload=json.dumps(event))
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


@pytest.fixture
def unheard(deployed: Deployed) -> Iterator[None]:
    with deaf(deployed):
        yield


@pytest.mark.usefixtures("unheard")
def test_each_event_of_an_approval_five_times_and_reordered_is_one_deployment(
    deployed: Deployed, trained: TrainOutput
) -> None:
    package = another_version(deployed, trained.package_arn)
    decide(deployed, package, "Approved")
    at = int(deployed.package(package)["LastModifiedTime"].timestamp() * 1000)
    approved = {"ModelPackageArn": package, "ModelApprovalStatus": "Approved", "LastModifiedTime": at}
    details = [
        approved | {"UpdatedModelPackageFields": ["ModelApprovalStatus"]},
        approved | {"UpdatedModelPackageFields": ["CustomerMetadataProperties"]},
        approved | {"ModelApprovalStatus": "PendingManualApproval", "LastModifiedTime": at - 1_000},
    ] * 5
    random.Random(0).shuffle(details)
    sent = [{"detail-type": "SageMaker Model Package State Change", "detail": detail} for detail in details]
    with ThreadPoolExecutor(2) as pool:
        actions = [
            decision["action"] for answer in pool.map(lambda e: handle(deployed, e), sent) for decision in answer
        ]
    assert sorted(set(actions)) == ["adopted", "ignored", "started"]
    assert actions.count("started") == 1
    (promotion,) = promotions(deployed, package)
    assert deployed.ended(promotion)["status"] == "SUCCEEDED"
    for event in sent[:3]:
        handle(deployed, event)
    assert promotions(deployed, package) == [promotion]


@pytest.mark.usefixtures("unheard")
def test_an_approval_whose_event_was_dropped_is_deployed_by_the_sweep(deployed: Deployed, trained: TrainOutput) -> None:
    package = another_version(deployed, trained.package_arn)
    decide(deployed, package, "Approved")
    assert promotions(deployed, package) == []
    swept = handle(deployed, {"detail-type": "Scheduled Event"})
    assert [(d["package_arn"], d["action"]) for d in swept if d["action"] == "started"] == [(package, "started")]
    (promotion,) = promotions(deployed, package)
    assert deployed.ended(promotion)["status"] == "SUCCEEDED"
    assert handle(deployed, {"detail-type": "Scheduled Event"}) == []
    rates = [r.get("ScheduleExpression", "") for r in deployed.aws.client("events").list_rules()["Rules"]]
    assert "rate(15 minutes)" in rates


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
