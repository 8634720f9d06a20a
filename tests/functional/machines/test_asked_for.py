"""The machines that are started by themselves on the local AWS: an evaluation, a dataset of many parts, a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepforge.approvals import Approvals
from stepforge.artifacts import read_manifest
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import write_manifest
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.requests import ApprovalRequest, AssemblySpec
from stepforge.errors import InvalidInput, RunFailed
from stepforge.evaluations import Evaluations
from stepforge.registry import Registry
from stepforge.submitting import transfers
from stepforge.submitting.started import assemble, evaluate, scores
from tests.functional.local_aws.helpers import wait

from .conftest import CODE, IMAGE, Deployed

BRIEFLY = 60


@pytest.fixture(scope="module")
def trained(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(deployed.pipeline(seed=60, stages=1))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


def upload(deployed: Deployed, folder: Path, text: str) -> ArtifactRef:
    folder.mkdir()
    (folder / "records.jsonl").write_text(text)
    return transfers.upload(deployed.connection, folder, write_manifest(folder, "records"))


def assembly(*sources: ArtifactRef, **more: Any) -> AssemblySpec:
    return AssemblySpec(domain="facial", sources=sources, code=CODE, image=IMAGE, **more)


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────


def test_a_registered_model_is_evaluated_by_itself_and_once(deployed: Deployed, trained: TrainOutput) -> None:
    connection = deployed.connection
    name = Registry(connection).get(trained.package_arn).reference
    other = deployed.train(deployed.pipeline(seed=61, stages=1))
    data = TrainOutput.model_validate_json(other["output"]).dataset.artifact
    spec = Evaluations(connection).ask(name, on=data.uri).spec
    started = evaluate(connection, spec)
    output = started.wait(timeout_seconds=BRIEFLY)
    assert started.name == f"evaluate-{spec.identity[:12]}-r0"
    found = scores(connection, output)
    assert (found.model_sha256, found.manifest_sha256) == (trained.stages[-1].artifact.sha256, data.sha256)
    again = evaluate(connection, spec)
    assert (again.name, again.wait(timeout_seconds=BRIEFLY)) == (started.name, output)


# ── dataset ──────────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_of_parts_is_a_job_each_joined_and_gated(deployed: Deployed, tmp_path: Path) -> None:
    sources = [upload(deployed, tmp_path / str(n), f"line-{n}\n" * (n + 1)) for n in range(3)]
    output = assemble(deployed.connection, assembly(*sources)).wait(timeout_seconds=BRIEFLY)
    s3 = deployed.aws.client("s3")
    manifest = read_manifest(s3, output.dataset.uri, expected_sha256=output.dataset.sha256)
    assert [entry.path for entry in manifest.files] == [f"records/train-{n:05d}.jsonl" for n in range(3)]
    assert output.counts["train"] == 6
    assert manifest.metadata["vocabulary"] == ["line-0", "line-1", "line-2"]
    folder = transfers.download(deployed.connection, output.dataset, tmp_path / "joined")
    assert folder == manifest
    assert (tmp_path / "joined" / "records" / "train-00002.jsonl").read_text() == "line-2\n" * 3
    assert output.gate.type == "gate"

    # Another order is another dataset, and its parts are adopted.
    jobs = deployed.jobs()
    other = assemble(deployed.connection, assembly(*reversed(sources))).wait(timeout_seconds=BRIEFLY)
    assert other.dataset.sha256 != output.dataset.sha256
    assert len(deployed.jobs() - jobs) == 1  # the gate of the other dataset


def test_a_part_that_fails_is_named_and_the_others_are_kept(deployed: Deployed, tmp_path: Path) -> None:
    sources = [upload(deployed, tmp_path / str(n), text) for n, text in enumerate(("good-1\n", "bad\n", "good-2\n"))]
    started = assemble(deployed.connection, assembly(*sources))
    with pytest.raises(RunFailed, match=r"AlgorithmError.*1 of 3 parts failed") as failed:
        started.wait(timeout_seconds=BRIEFLY)
    assert sources[1].uri in str(failed.value)
    assert "line 1: it says bad" in str(failed.value)
    assert "{" not in str(failed.value)
    kept = [assembly(*sources).part(source) for source in (sources[0], sources[2])]
    described = [
        deployed.aws.client("sagemaker").describe_training_job(TrainingJobName=f"{job.prefix}-a0") for job in kept
    ]
    assert [job["TrainingJobStatus"] for job in described] == ["Completed", "Completed"]


# ── approve ──────────────────────────────────────────────────────────────────────────────────────


def pending_names(approvals: Approvals) -> list[str]:
    return [asked.name for asked in approvals.pending()]


def answer(deployed: Deployed, name: str, *, approved: bool, reason: str) -> None:
    """Answer once the handler has kept the token."""
    approvals = Approvals(deployed.connection)
    key = f"approvals/{name}.json"
    s3 = deployed.aws.client("s3")
    wait(lambda: s3.list_objects_v2(Bucket=deployed.bucket, Prefix=key).get("KeyCount"), bool)
    approvals.answer(name, approved=approved, by="ada", reason=reason)


def test_spending_waits_for_a_person_and_goes_on_with_a_yes(deployed: Deployed) -> None:
    approvals = Approvals(deployed.connection)
    request = ApprovalRequest(kind="spending", subject="train-0123456789ab", question="It may cost $40. Go on?")
    started = approvals.ask(request)
    wait(lambda: pending_names(approvals), lambda names: started.name in names)
    answer(deployed, started.name, approved=True, reason="it is in the plan")
    assert started.wait(timeout_seconds=BRIEFLY).by == "ada"
    assert approvals.ask(request).name == started.name
    with pytest.raises(InvalidInput, match=r"SUCCEEDED and waits for nobody"):
        approvals.answer(started.name, approved=True, by="ada", reason="")


def test_a_no_fails_with_who_said_it_and_why(deployed: Deployed) -> None:
    approvals = Approvals(deployed.connection)
    started = approvals.ask(ApprovalRequest(kind="spending", subject="train-ba9876543210", question="It may cost $4."))
    answer(deployed, started.name, approved=False, reason="not this month")
    with pytest.raises(RunFailed, match=r"ApprovalRefused.*ada said no to train-ba9876543210: not this month"):
        started.wait(timeout_seconds=BRIEFLY)


def test_a_question_that_nobody_answers_expires(deployed: Deployed) -> None:
    approvals = Approvals(deployed.connection)
    request = ApprovalRequest(kind="spending", subject="late", question="It may cost $4.", expires_seconds=1)
    started = approvals.ask(request)
    with pytest.raises(RunFailed, match=r"ApprovalExpired.*nobody answered about late within 1 seconds: ask again"):
        started.wait(timeout_seconds=BRIEFLY)
    with pytest.raises(InvalidInput, match="waits for nobody"):
        approvals.answer(started.name, approved=True, by="ada", reason="")
    assert approvals.ask(request).name == started.name.removesuffix("r0") + "r1"


def test_a_promotion_that_is_answered_without_the_console_is_promoted_or_rejected_with_its_reason(
    deployed: Deployed, trained: TrainOutput
) -> None:
    registry, approvals = Registry(deployed.connection), Approvals(deployed.connection)
    refused = deployed.train(deployed.pipeline(seed=62, stages=1))
    refused_arn = TrainOutput.model_validate_json(refused["output"]).package_arn
    before = len(deployed.executions("promote"))

    no = approvals.ask_promotion(registry.get(refused_arn))
    answer(deployed, no.name, approved=False, reason="it is worse on eyebrows")
    with pytest.raises(RunFailed, match="it is worse on eyebrows"):
        no.wait(timeout_seconds=BRIEFLY)
    rejected = registry.get(refused_arn)
    assert rejected.approval == "Rejected"
    assert rejected.reason.startswith("it is worse on eyebrows (by ada, asked by approve-")

    yes = approvals.ask_promotion(registry.get(trained.package_arn))
    answer(deployed, yes.name, approved=True, reason="better everywhere")
    assert yes.wait(timeout_seconds=BRIEFLY).approved
    promoted = registry.wait_promoted(registry.get(trained.package_arn), timeout_seconds=BRIEFLY)
    assert promoted.status == "SUCCEEDED"
    assert len(deployed.executions("promote")) == before + 1
    assert registry.get(trained.package_arn).reason.startswith("better everywhere (by ada")
    with pytest.raises(InvalidInput, match="is Approved: there is nothing to ask"):
        approvals.ask_promotion(registry.get(trained.package_arn))
