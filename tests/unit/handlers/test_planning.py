"""What a `train` execution does next, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from stepforge import logs
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.names import split_uri
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.reports import GateFinding, GateReport
from stepforge.errors import GateRefused, IdentityConflict, IntegrityError, InvalidInput
from stepforge.machines.gate import GateCheck, read_gate
from stepforge.machines.planning import PlanRequest, finish, plan

from .conftest import BUCKET, KEY_ARN, outcome, put_artifact


def step(s3: Any, state: PipelineState, **finished: Any) -> Any:
    return plan(s3, PlanRequest(state=state, **finished), bucket=BUCKET, key_arn=KEY_ARN)


def test_a_pipeline_is_walked_from_dataset_to_end(s3: Any, started: PipelineState) -> None:
    planned, kinds, phases = step(s3, started), [], []
    while planned.job is not None:
        kinds.append(planned.job.prefix.partition("-")[0])
        phases.append(planned.phase)
        planned = step(s3, planned.state, finished=outcome(kinds[-1]))
    assert kinds == ["dataset", "gate", "sft", "srl", "evaluate"]
    assert phases == ["dataset", "gate", "stage", "stage", "evaluation"]
    assert planned.phase == "end"


def test_the_spec_lies_where_its_identity_says_and_encrypted(s3: Any, started: PipelineState) -> None:
    job = step(s3, started).job
    bucket, key = split_uri(job.spec_uri)
    found = s3.get_object(Bucket=bucket, Key=key)
    assert JobSpec.model_validate_json(found["Body"].read()).identity == job.spec_sha256
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KEY_ARN)
    assert job.channels["spec"] == job.spec_uri.removesuffix("spec.json")


def test_planning_twice_is_planning_once(s3: Any, started: PipelineState) -> None:
    assert step(s3, started) == step(s3, started)


def test_a_pipeline_that_was_replaced_is_refused(s3: Any, started: PipelineState, pipeline: PipelineSpec) -> None:
    other = pipeline.model_copy(update={"domain": "other"})
    bucket, key = split_uri(started.pipeline_uri)
    s3.put_object(Bucket=bucket, Key=key, Body=canonical_json(other))
    with pytest.raises(IdentityConflict, match=other.identity):
        step(s3, started)


def test_a_job_that_was_not_due_is_refused(s3: Any, started: PipelineState) -> None:
    with pytest.raises(IdentityConflict, match="a 'dataset' job was due"):
        step(s3, started, finished=outcome("gate"))


def test_a_pipeline_that_is_not_there_or_not_one_is_named(s3: Any, started: PipelineState) -> None:
    bucket, key = split_uri(started.pipeline_uri)
    s3.put_object(Bucket=bucket, Key=key, Body=b"{}")
    with pytest.raises(InvalidInput, match="is not a pipeline"):
        step(s3, started)
    s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(InvalidInput, match="does not exist"):
        step(s3, started)


def test_an_unfinished_pipeline_cannot_be_compared(s3: Any, started: PipelineState) -> None:
    with pytest.raises(InvalidInput, match="its gate is due"):
        finish(s3, PlanRequest(state=started, finished=outcome("dataset")))


def test_the_handler_answers_json_and_names_a_malformed_field(
    s3: Any, started: PipelineState, load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("BUCKET", BUCKET)
    monkeypatch.setenv("KEY_ARN", KEY_ARN)
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-67890abc-0123456789abcdef01234567;Parent=2;Sampled=1")
    handler = load("plan_job").handler
    with ExitStack() as logging:
        monkeypatch.setattr(
            "_runtime._configure_logs", lambda name: logging.enter_context(logs.configure(name, queued=False))
        )
        answer = handler({"state": started.model_dump(mode="json")}, None)
        line = json.loads(capsys.readouterr().out.splitlines()[-1])
        with pytest.raises(ValidationError, match="pipeline_sha256"):
            handler({"state": {"pipeline_uri": started.pipeline_uri}}, None)
    assert answer["phase"] == "dataset"
    assert json.loads(json.dumps(answer)) == answer
    assert (line["trace_id"], line["service"], line["level"]) == (
        "1-67890abc-0123456789abcdef01234567",
        "stepforge.plan_job",
        "INFO",
    )


# The gate


def gate_check(s3: Any, report: GateReport, dataset_sha256: str) -> GateCheck:
    gate = put_artifact(s3, "gate-" + "b" * 12 + "-a0", "gate", {"gate.json": canonical_json(report)})
    dataset = outcome("dataset")
    dataset = dataset.model_copy(update={"artifact": dataset.artifact.model_copy(update={"sha256": dataset_sha256})})
    return GateCheck(dataset=dataset, gate=outcome("gate", gate))


def test_a_gate_that_passed_this_dataset_lets_it_through(s3: Any) -> None:
    report = GateReport(manifest_sha256="1" * 64, passed=True, checked={"leak": 3})
    assert read_gate(s3, gate_check(s3, report, "1" * 64)) == report


def test_a_gate_that_failed_names_record_and_rule(s3: Any) -> None:
    finding = GateFinding(check="leak", record="r-42", rule="disjoint", message="its group is in train and in test")
    report = GateReport(manifest_sha256="1" * 64, passed=False, checked={}, findings=(finding,), total_findings=3)
    with pytest.raises(
        GateRefused, match="record 'r-42', leak rule 'disjoint': its group is in train and in test"
    ) as caught:
        read_gate(s3, gate_check(s3, report, "1" * 64))
    assert "(2 more)" in str(caught.value)


def test_a_gate_of_other_data_opens_nothing(s3: Any) -> None:
    report = GateReport(manifest_sha256="2" * 64, passed=True, checked={})
    with pytest.raises(GateRefused, match="it opens nothing"):
        read_gate(s3, gate_check(s3, report, "1" * 64))


def test_a_gate_report_that_was_edited_is_refused(s3: Any) -> None:
    report = GateReport(manifest_sha256="1" * 64, passed=False, checked={})
    check = gate_check(s3, report, "1" * 64)
    bucket, prefix = split_uri(check.gate.artifact.uri)
    passed = canonical_json(report.model_copy(update={"passed": True}))
    s3.put_object(Bucket=bucket, Key=prefix + "gate.json", Body=passed)
    with pytest.raises(IntegrityError, match=r"gate\.json has SHA-256"):
        read_gate(s3, check)


def test_a_throttled_call_gets_a_name_that_the_machine_retries(
    s3: Any, started: PipelineState, load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepforge.errors import Throttled
    from tests.fakes import refusal

    module = load("plan_job")

    def plan_under(code: str) -> None:
        def raising(*_: Any, **__: Any) -> None:
            raise refusal("PutObject", "slow down", code)

        monkeypatch.setattr(module, "plan", raising)
        module.handler({"state": started.model_dump(mode="json")}, None)

    monkeypatch.setenv("BUCKET", BUCKET)
    monkeypatch.setenv("KEY_ARN", KEY_ARN)
    with pytest.raises(Throttled):
        plan_under("ThrottlingException")
    with pytest.raises(Exception, match="slow down") as caught:
        plan_under("AccessDenied")
    assert type(caught.value).__name__ == "ClientError"
