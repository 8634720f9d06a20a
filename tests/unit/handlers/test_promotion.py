"""One approval is one promotion, however its events arrive."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from stepforge.contracts.events import PackageStateChange
from stepforge.contracts.names import group_prefix
from stepforge.contracts.registry import SERVES_SINCE, PackageMetadata, Promotion
from stepforge.contracts.serving import Fleet
from stepforge.errors import ArtifactRefused, EnvironmentUnavailable
from stepforge.machines import promotion
from stepforge.machines.deployment import stamp
from stepforge.machines.promotion import MAX_EXECUTIONS, on_event, on_rejection
from stepforge.machines.retiring import retire
from tests.fakes import TUNE, FakeSageMaker, refusal

GROUP = "stepforge-facial"
sweep = partial(promotion.sweep, prefix=group_prefix("local"))
FLEET = Fleet(instance_type="ml.m5.large")
METADATA = PackageMetadata(
    pipeline_sha256="1" * 64,
    model_sha256="2" * 64,
    evaluation_sha256="3" * 64,
    evaluation_uri="s3://bucket/evaluation/",
    dataset_sha256="4" * 64,
    training_job_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/j",
    domain="facial",
).properties()


@pytest.fixture
def package(sagemaker: FakeSageMaker) -> str:
    return add(sagemaker)


def add(sagemaker: FakeSageMaker, **more: Any) -> str:
    sagemaker.groups.add(GROUP)
    fields = {"ModelApprovalStatus": "Approved", "CustomerMetadataProperties": METADATA, **more}
    return sagemaker.create_model_package(ModelPackageGroupName=GROUP, **fields)["ModelPackageArn"]


def change(arn: str, status: str = "Approved", *, at: int = 1, **more: Any) -> PackageStateChange:
    return PackageStateChange(ModelPackageArn=arn, ModelApprovalStatus=status, LastModifiedTime=at, **more)


def serve(sagemaker: FakeSageMaker, version: int) -> None:
    sagemaker.endpoints.pop(GROUP, None)
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName=f"{GROUP}-v{version}-0123456789ab")


def executions(states: Any, machine_arn: str) -> list[str]:
    return sorted(e["name"] for e in states.list_executions(stateMachineArn=machine_arn)["executions"])


def test_five_duplicates_among_reordered_events_start_one_promotion(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    events = [change(package, at=2)] * 5 + [
        change(package, "PendingManualApproval", at=1),
        change(package, at=3, UpdatedModelPackageFields=["CustomerMetadataProperties"]),
    ]
    random.Random(7).shuffle(events)
    decisions = [on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn) for event in events]
    assert [d.action for d in decisions].count("started") == 1
    assert [d.action for d in decisions].count("adopted") == 4
    assert len(executions(states, machine_arn)) == 1


def test_the_input_of_the_promotion_is_its_contract(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    event = change(package)
    decision = on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn)
    (found,) = states.list_executions(stateMachineArn=machine_arn)["executions"]
    plain = json.loads(states.describe_execution(executionArn=found["executionArn"])["input"])
    assert plain == {
        "package_arn": package,
        "group": GROUP,
        "version": 1,
        "event_id": event.event_id,
        "approved_at": "1970-01-01T00:00:01+00:00",
    }
    assert decision.execution == f"promote-{event.event_id[:12]}-r1"


@pytest.mark.parametrize("status", ["Rejected", "PendingManualApproval"])
def test_what_is_not_approved_by_now_is_not_promoted(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str, status: str
) -> None:
    sagemaker.packages[package]["ModelApprovalStatus"] = status
    late = on_event(sagemaker, states, change(package), FLEET, machine_arn=machine_arn)
    honest = on_event(sagemaker, states, change(package, status), FLEET, machine_arn=machine_arn)
    assert (late.action, honest.action) == ("ignored", "ignored")
    assert executions(states, machine_arn) == []


def test_a_package_of_someone_else_is_left_alone(sagemaker: FakeSageMaker, states: Any, machine_arn: str) -> None:
    arn = add(sagemaker, CustomerMetadataProperties={"owner": "another team"})
    decision = on_event(sagemaker, states, change(arn), FLEET, machine_arn=machine_arn)
    assert "not registered by stepforge" in decision.reason


def test_an_execution_that_was_cut_off_is_followed_by_the_next_number_and_not_for_ever(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    event = change(package)
    for number in range(1, MAX_EXECUTIONS + 1):
        decision = on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn)
        assert decision.execution == f"promote-{event.event_id[:12]}-r{number}"
        for running in states.list_executions(stateMachineArn=machine_arn, statusFilter="RUNNING")["executions"]:
            states.stop_execution(executionArn=running["executionArn"])
    assert on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn).action == "ignored"


def test_a_verdict_is_final_for_its_approval_and_a_new_approval_is_a_new_chance(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    event = change(package)
    sagemaker.packages[package]["CustomerMetadataProperties"] = {
        **METADATA,
        "promotion": "refused",
        "promotion_event": event.event_id,
    }
    assert on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn).action == "ignored"
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    assert on_event(sagemaker, states, change(package, at=9), FLEET, machine_arn=machine_arn).action == "started"


def test_the_stamp_of_a_failure_is_no_approval_though_its_event_names_no_field(
    sagemaker: FakeSageMaker, states: Any, package: str, machine_arn: str
) -> None:
    first = on_event(sagemaker, states, change(package, at=1), FLEET, machine_arn=machine_arn)
    states.stop_execution(executionArn=f"{machine_arn.replace(':stateMachine:', ':execution:')}:{first.execution}")
    promotion = Promotion(package_arn=package, group=GROUP, version=1, event_id=change(package, at=1).event_id)
    stamp(sagemaker, promotion, "failed", "smoke")
    assert on_event(sagemaker, states, change(package, at=2), FLEET, machine_arn=machine_arn).action == "ignored"
    sagemaker.update_model_package(
        ModelPackageArn=package, ModelApprovalStatus="Approved", ApprovalDescription="once more"
    )
    assert on_event(sagemaker, states, change(package, at=3), FLEET, machine_arn=machine_arn).action == "started"


def test_the_sweep_heals_a_lost_event_once(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    (decision,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert (decision.action, decision.package_arn) == ("started", package)
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    assert len(executions(states, machine_arn)) == 1


def test_an_event_that_was_only_late_adopts_what_the_sweep_started(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    sagemaker.packages[package]["LastModifiedTime"] = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    (decision,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    late = change(package, at=1_767_323_045_678)
    assert on_event(sagemaker, states, late, FLEET, machine_arn=machine_arn).execution == decision.execution
    assert len(executions(states, machine_arn)) == 1


def test_the_sweep_starts_nothing_beside_a_promotion_that_runs(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    on_event(sagemaker, states, change(package), FLEET, machine_arn=machine_arn)
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    assert len(executions(states, machine_arn)) == 1


def test_the_sweep_does_not_bring_back_an_older_version(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    add(sagemaker, ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    serve(sagemaker, 2)
    assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["ignored"]
    assert executions(states, machine_arn) == []


def stop(states: Any, machine_arn: str) -> None:
    for running in states.list_executions(stateMachineArn=machine_arn, statusFilter="RUNNING")["executions"]:
        states.stop_execution(executionArn=running["executionArn"])


def test_a_version_whose_endpoint_is_gone_is_brought_back_by_the_sweep_and_by_approving_it_again(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    promoted(sagemaker, package)
    serve(sagemaker, 1)
    assert on_event(sagemaker, states, change(package, at=8), FLEET, machine_arn=machine_arn).action == "ignored"
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    del sagemaker.endpoints[GROUP]
    again = change(package, at=9, UpdatedModelPackageFields=["ModelApprovalStatus"])
    assert on_event(sagemaker, states, again, FLEET, machine_arn=machine_arn).action == "started"
    stop(states, machine_arn)
    for _ in range(MAX_EXECUTIONS):
        assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["started"]
        stop(states, machine_arn)
    assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["ignored"]


def test_an_endpoint_that_serves_another_version_than_production_is_put_right_unless_it_moves(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    promoted(sagemaker, package)
    add(sagemaker, ModelApprovalStatus="Rejected")
    serve(sagemaker, 2)
    sagemaker.endpoints[GROUP]["EndpointStatus"] = "Updating"
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    sagemaker.endpoints[GROUP]["EndpointStatus"] = "InService"
    (decision,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert (decision.action, decision.package_arn) == ("started", package)


def test_a_rejected_version_that_a_stopped_promotion_left_live_goes(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    serve(sagemaker, 1)
    sagemaker.packages[package]["ModelApprovalStatus"] = "PendingManualApproval"
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    sagemaker.packages[package]["ModelApprovalStatus"] = "Rejected"
    assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["removed"]
    assert sagemaker.endpoints == {}


def test_a_stamp_that_comes_twice_stands_though_the_version_was_rejected_between(
    sagemaker: FakeSageMaker, package: str
) -> None:
    promoted(sagemaker, package)
    sagemaker.packages[package]["ModelApprovalStatus"] = "Rejected"
    promoted(sagemaker, package)
    with pytest.raises(ArtifactRefused, match="is Rejected by now"):
        promoted(sagemaker, package, change(package, at=9))


@pytest.mark.parametrize("status", ["Creating", "Updating"])
def test_the_sweep_leaves_a_candidate_that_comes_up_to_the_next(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str, status: str
) -> None:
    promoted(sagemaker, package)
    serve(sagemaker, 1)
    sagemaker.create_endpoint(EndpointName=f"{GROUP}-candidate", EndpointConfigName="c")
    sagemaker.endpoints[f"{GROUP}-candidate"]["EndpointStatus"] = status
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    sagemaker.endpoints[f"{GROUP}-candidate"]["EndpointStatus"] = "InService"
    assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["removed"]


def test_what_fails_in_one_group_is_told_after_the_others_were_swept(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagemaker.groups.add("stepforge-a")
    sagemaker.create_endpoint(EndpointName="stepforge-a-candidate", EndpointConfigName="c")
    delete = sagemaker.delete_endpoint

    def refuse(*, EndpointName: str) -> None:
        if EndpointName.startswith("stepforge-a-"):
            raise refusal("DeleteEndpoint", "Cannot update in-progress endpoint")
        delete(EndpointName=EndpointName)

    monkeypatch.setattr(sagemaker, "delete_endpoint", refuse)
    told = r"in 1 groups.*stepforge-a: ClientError.*in-progress endpoint\. Done: started .*stepforge-facial/1"
    with pytest.raises(EnvironmentUnavailable, match=told):
        sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert len(executions(states, machine_arn)) == 1


def test_a_newer_approval_comes_before_the_version_whose_endpoint_is_gone(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    promoted(sagemaker, package)
    newer = add(sagemaker)
    (decision,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert (decision.action, decision.package_arn) == ("started", newer)


def test_being_superseded_is_no_approval_and_approving_the_older_version_again_is(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    promoted(sagemaker, package)
    promoted(sagemaker, add(sagemaker))
    superseded = datetime.now(UTC)
    serve(sagemaker, 2)
    for at, what in ((superseded, "ignored"), (superseded + timedelta(minutes=1), "started")):
        event = PackageStateChange(ModelPackageArn=package, ModelApprovalStatus="Approved", LastModifiedTime=at)
        assert on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn).action == what
    assert len(executions(states, machine_arn)) == 1


def test_a_late_event_of_an_older_approval_does_not_replace_what_was_approved_after_it(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    newer = add(sagemaker)
    promoted(sagemaker, newer, change(newer, at=20))
    serve(sagemaker, 2)
    named = {"UpdatedModelPackageFields": ["ModelApprovalStatus"]}
    late = on_event(sagemaker, states, change(package, at=10, **named), FLEET, machine_arn=machine_arn)
    assert (late.action, late.reason) == ("ignored", "version 2, which serves, was approved later")
    assert (
        on_event(sagemaker, states, change(package, at=21, **named), FLEET, machine_arn=machine_arn).action == "started"
    )


@pytest.mark.parametrize("step", ["trying", "failed", "refused"])
def test_a_late_duplicate_of_an_approval_that_was_followed_by_another_starts_nothing(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str, step: Any
) -> None:
    first, second = (change(package, at=at, UpdatedModelPackageFields=["ModelApprovalStatus"]) for at in (10, 20))
    for event in (first, second):
        assert on_event(sagemaker, states, event, FLEET, machine_arn=machine_arn).action == "started"
        stamp(sagemaker, Promotion(
            package_arn=package, group=GROUP, version=1, event_id=event.event_id, approved_at=event.approved_at
        ), step, "as told")  # fmt: skip
        stop(states, machine_arn)
    for _ in range(3):
        assert on_event(sagemaker, states, first, FLEET, machine_arn=machine_arn).action == "ignored"
    assert len(executions(states, machine_arn)) == 2


def test_the_handler_takes_the_envelopes_of_event_and_schedule(
    sagemaker: FakeSageMaker,
    states: Any,
    machine_arn: str,
    package: str,
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMOTE_ARN", machine_arn)
    monkeypatch.setenv("GROUP_PREFIX", "stepforge-")
    monkeypatch.setenv("FLEET", FLEET.model_dump_json())
    module = load("on_approval")
    monkeypatch.setattr(module, "client", {"sagemaker": sagemaker, "stepfunctions": states}.__getitem__)
    envelope = {"version": "0", "source": "aws.sagemaker", "detail-type": "SageMaker Model Package State Change"}
    detail = {"ModelPackageArn": package, "ModelApprovalStatus": "Approved", "NewField": 1}
    assert module.handler({**envelope, "detail": detail}, None)[0]["action"] == "started"
    assert module.handler({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}, None) == []


# Rejection


@pytest.mark.parametrize("stage", ["Development", "Production"])
def test_a_rejection_is_recorded_once_with_its_reason_and_a_model_that_serves_goes_on(
    sagemaker: FakeSageMaker, stage: str
) -> None:
    life = {"Stage": stage, "StageStatus": "Serving"}
    reason = "it's worse on eyebrows (40 %),\nsee the previews: s3://b/p"
    arn = add(sagemaker, ModelApprovalStatus="Rejected", ApprovalDescription=reason, ModelLifeCycle=life)
    first, second = (on_rejection(sagemaker, change(arn, "Rejected")) for _ in range(2))
    assert (first.action, second.action) == ("recorded", "ignored")
    assert sagemaker.calls.count("update_model_package") == 1
    found = sagemaker.packages[arn]
    assert found["CustomerMetadataProperties"] == {
        **METADATA,
        "rejection": "it s worse on eyebrows 40 see the previews: s3://b/p",
    }
    assert found["ModelLifeCycle"]["Stage"] == stage
    assert found["ApprovalDescription"] == reason
    assert (found["ModelLifeCycle"]["StageStatus"] == "Rejected") == (stage == "Development")


def test_what_is_rejected_no_longer_or_is_somebody_elses_is_left_alone(sagemaker: FakeSageMaker) -> None:
    approved, foreign = add(sagemaker), add(sagemaker, ModelApprovalStatus="Rejected", CustomerMetadataProperties={})
    decisions = [on_rejection(sagemaker, change(arn, "Rejected")) for arn in (approved, foreign)]
    assert [d.action for d in decisions] == ["ignored", "ignored"]
    assert "update_model_package" not in sagemaker.calls


@pytest.mark.parametrize("environment", ["local", "dev"])
def test_a_package_of_another_environment_is_asked_nothing_about(
    environment: str,
    sagemaker: FakeSageMaker,
    states: Any,
    machine_arn: str,
    load: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMOTE_ARN", machine_arn)
    monkeypatch.setenv("GROUP_PREFIX", group_prefix(environment))
    monkeypatch.setenv("FLEET", FLEET.model_dump_json())
    arn = "arn:aws:sagemaker:us-east-1:000000000000:model-package/stepforge-prod---facial/1"
    for name, status, nothing in (("on_rejection", "Rejected", None), ("on_approval", "Approved", [])):
        module, calls = load(name), list(sagemaker.calls)
        monkeypatch.setattr(module, "client", {"sagemaker": sagemaker, "stepfunctions": states}.__getitem__)
        detail = {"ModelPackageArn": arn, "ModelApprovalStatus": status}
        assert module.handler({"detail-type": "x", "detail": detail}, None) == nothing
        assert sagemaker.calls == calls


def test_the_sweep_of_the_local_environment_leaves_one_that_is_deployed_beside_it(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str
) -> None:
    sagemaker.groups.add(group := "stepforge-dev---facial")
    fields = {"ModelApprovalStatus": "Approved", "CustomerMetadataProperties": METADATA}
    sagemaker.create_model_package(ModelPackageGroupName=group, **fields)
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn, prefix=group_prefix("local")) == []
    (found,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn, prefix=group_prefix("dev"))
    assert found.action == "started"


def test_a_rejection_without_a_reason_says_so_and_a_new_reason_is_recorded(
    sagemaker: FakeSageMaker, load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUP_PREFIX", "stepforge-")
    arn = add(sagemaker, ModelApprovalStatus="Rejected")
    module = load("on_rejection")
    module.client = lambda service: sagemaker  # type: ignore[attr-defined]
    event = {"detail-type": "x", "detail": {"ModelPackageArn": arn, "ModelApprovalStatus": "Rejected"}}
    assert module.handler(event, None)["reason"] == "no reason was given"
    sagemaker.packages[arn]["ApprovalDescription"] = "after all: too slow"
    assert module.handler(event, None)["action"] == "recorded"
    assert sagemaker.packages[arn]["CustomerMetadataProperties"]["rejection"] == "after all: too slow"


def test_the_sweep_deletes_the_candidate_of_a_promotion_that_was_stopped(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    running = on_event(sagemaker, states, change(package), FLEET, machine_arn=machine_arn).execution
    arn = f"{machine_arn.replace(':stateMachine:', ':execution:')}:{running}"
    sagemaker.create_endpoint(
        EndpointName=f"{GROUP}-candidate", EndpointConfigName="c", Tags=[{"Key": "stepforge:execution", "Value": arn}]
    )
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    assert f"{GROUP}-candidate" in sagemaker.endpoints
    states.stop_execution(executionArn=arn)
    swept = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert [d.action for d in swept] == ["removed", "started"]
    assert f"{GROUP}-candidate" not in sagemaker.endpoints


# ── What served before ───────────────────────────────────────────────────────────────────────────


def promoted(sagemaker: FakeSageMaker, arn: str, event: PackageStateChange | None = None) -> datetime:
    package = sagemaker.packages[arn]
    version = package["ModelPackageVersion"]
    promotion = {
        "package_arn": arn, "group": GROUP, "version": version,
        "event_id": event.event_id if event else "5" * 64, "approved_at": event.approved_at if event else None,
    }  # fmt: skip
    stamp(sagemaker, Promotion.model_validate(promotion), "deployed", "a test")
    return datetime.fromisoformat(sagemaker.packages[arn]["CustomerMetadataProperties"][SERVES_SINCE])


def test_our_endpoint_is_kept_for_a_week_after_a_provider_s_model_took_its_place(
    sagemaker: FakeSageMaker, package: str
) -> None:
    promoted(sagemaker, package)
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="c")
    tune = add(sagemaker, CustomerMetadataProperties={**METADATA, **TUNE})
    since = promoted(sagemaker, tune)
    sagemaker.create_endpoint(EndpointName="sf-1", EndpointConfigName="c")

    def after(days: float, *, idle: bool = True) -> list[str]:
        return retire(sagemaker, GROUP, keep_days=7, idle=lambda: idle, now=since + timedelta(days=days))

    assert after(6.9) == []
    assert after(7.1, idle=False) == []
    assert (after(7.1), after(7.2)) == ([GROUP], [])
    # What serves stays: the tune's own endpoint, and it is the one that goes once another was promoted.
    assert list(sagemaker.endpoints) == ["sf-1"]
    since = promoted(sagemaker, package)
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="c")
    assert (after(6.9), after(7.1)) == ([], ["sf-1"])
    assert list(sagemaker.endpoints) == [GROUP]


def test_the_sweep_removes_what_served_before(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, package: str
) -> None:
    promoted(sagemaker, package)
    sagemaker.create_endpoint(EndpointName=GROUP, EndpointConfigName="c")
    promoted(sagemaker, add(sagemaker, CustomerMetadataProperties={**METADATA, **TUNE}))
    assert sweep(sagemaker, states, FLEET, machine_arn=machine_arn) == []
    (removed,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn, keep_previous_days=0)
    assert (removed.action, GROUP in removed.reason, sagemaker.endpoints) == ("removed", True, {})
