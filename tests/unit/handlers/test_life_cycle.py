"""The stage of a version tells what its promotion does with it, in whatever order the words of promotions arrive."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepforge.contracts.registry import Promotion, PromotionStep
from stepforge.machines.deployment import stamp
from stepforge.machines.promotion import MAX_EXECUTIONS, on_event, on_rejection
from tests.fakes import FakeSageMaker

from .test_promotion import FLEET, GROUP, add, change, executions, sweep

NEW = {"Stage": "Development", "StageStatus": "PendingApproval"}
SUPERSEDED = {"Stage": "Archived", "StageStatus": "Superseded", "StageDescription": "by version 4"}


def promotion_of(arn: str, event: str = "e") -> Promotion:
    return Promotion(package_arn=arn, group=GROUP, version=1, event_id=event * 64)


def staged(sagemaker: FakeSageMaker, arn: str) -> tuple[str, str]:
    found = sagemaker.packages[arn]["ModelLifeCycle"]
    return found["Stage"], found["StageStatus"]


@pytest.mark.parametrize(
    ("before", "tried", "step", "after"),
    [
        (NEW, ("Staging", "Trying"), "deployed", ("Production", "Serving")),
        (NEW, ("Staging", "Trying"), "failed", ("Development", "Failed")),
        (NEW, ("Staging", "Trying"), "refused", ("Development", "Refused")),
        (NEW, ("Staging", "Trying"), "cut off", ("Development", "CutOff")),
        (SUPERSEDED, ("Staging", "TryingAgain"), "deployed", ("Production", "Serving")),
        (SUPERSEDED, ("Staging", "TryingAgain"), "failed", ("Archived", "Failed")),
        (SUPERSEDED, ("Staging", "TryingAgain"), "cut off", ("Archived", "CutOff")),
    ],
)
def test_a_version_is_in_staging_while_it_is_tried_and_then_where_its_verdict_says(
    sagemaker: FakeSageMaker, before: Any, tried: Any, step: PromotionStep, after: Any
) -> None:
    arn = add(sagemaker, ModelLifeCycle=before)
    for _ in range(2):
        stamp(sagemaker, promotion_of(arn), "trying", "its promotion runs")
        assert staged(sagemaker, arn) == tried
    for _ in range(2):
        stamp(sagemaker, promotion_of(arn), step, "it answered\notherwise")
        assert staged(sagemaker, arn) == after
    assert sagemaker.packages[arn]["ModelLifeCycle"]["StageDescription"] == "it answered otherwise"
    verdict = sagemaker.packages[arn]["CustomerMetadataProperties"].get("promotion")
    assert verdict == (None if step == "cut off" else step)


def test_a_version_that_serves_is_not_staged_and_one_that_was_rejected_keeps_its_reason(
    sagemaker: FakeSageMaker,
) -> None:
    serves = add(sagemaker, ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    for step in ("trying", "failed", "cut off"):
        stamp(sagemaker, promotion_of(serves), step, "again")
        assert staged(sagemaker, serves) == ("Production", "Serving")
    for event_first in (True, False):
        arn = add(sagemaker, ModelLifeCycle=NEW)
        stamp(sagemaker, promotion_of(arn), "trying", "")
        sagemaker.packages[arn] |= {"ModelApprovalStatus": "Rejected", "ApprovalDescription": "worse"}
        if event_first:
            on_rejection(sagemaker, change(arn, "Rejected"))
        stamp(sagemaker, promotion_of(arn), "refused", "it is Rejected by now")
        on_rejection(sagemaker, change(arn, "Rejected"))
        assert staged(sagemaker, arn) == ("Development", "Rejected")
        assert sagemaker.packages[arn]["ModelLifeCycle"]["StageDescription"] == "worse"
        assert sagemaker.packages[arn]["ApprovalDescription"] == "worse"


def test_the_end_of_an_earlier_promotion_takes_nothing_from_a_later_one(sagemaker: FakeSageMaker) -> None:
    arn = add(sagemaker, ModelLifeCycle=NEW)
    earlier, later = promotion_of(arn, "a"), promotion_of(arn, "b")
    stamp(sagemaker, earlier, "trying", "")
    stamp(sagemaker, later, "trying", "")
    for step in ("failed", "refused", "cut off"):
        stamp(sagemaker, earlier, step, "late")
        assert staged(sagemaker, arn) == ("Staging", "Trying")
    stamp(sagemaker, earlier, "deployed", "it serves all the same")
    stamp(sagemaker, later, "cut off", "")
    assert staged(sagemaker, arn) == ("Production", "Serving")


def test_a_new_try_takes_the_old_verdict_away(sagemaker: FakeSageMaker) -> None:
    arn = add(sagemaker, ModelLifeCycle=NEW)
    stamp(sagemaker, promotion_of(arn, "a"), "failed", "once")
    stamp(sagemaker, promotion_of(arn, "b"), "trying", "")
    properties = sagemaker.packages[arn]["CustomerMetadataProperties"]
    assert ("promotion" in properties, properties["promotion_event"]) == (False, "b" * 64)


def test_the_sweep_starts_what_was_cut_off_three_times_at_most_however_often_its_package_changed(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str
) -> None:
    arn = add(sagemaker, ModelLifeCycle=NEW)
    for number in range(1, MAX_EXECUTIONS + 1):
        (started,) = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
        assert started.action == "started"
        (name,) = [name for name in executions(states, machine_arn) if name.endswith(f"-r{number}")]
        running = machine_arn.replace(":stateMachine:", ":execution:") + f":{name}"
        event = json.loads(states.describe_execution(executionArn=running)["input"])["event_id"]
        stamp(sagemaker, promotion_of(arn).model_copy(update={"event_id": event}), "trying", "")
        sagemaker.packages[arn]["LastModifiedTime"] = f"changed {number}"
        states.stop_execution(executionArn=running)
    swept = sweep(sagemaker, states, FLEET, machine_arn=machine_arn)
    assert [decision.action for decision in swept] == ["ignored", "recorded"]
    assert staged(sagemaker, arn) == ("Development", "CutOff")
    assert [d.action for d in sweep(sagemaker, states, FLEET, machine_arn=machine_arn)] == ["ignored"]


@pytest.mark.parametrize("step", ["trying", "cut off"])
def test_an_event_of_a_stamp_that_names_no_field_starts_nothing(
    sagemaker: FakeSageMaker, states: Any, machine_arn: str, step: PromotionStep
) -> None:
    arn = add(sagemaker, ModelLifeCycle=NEW)
    stamp(sagemaker, promotion_of(arn), "trying", "")
    stamp(sagemaker, promotion_of(arn), step, "")
    assert on_event(sagemaker, states, change(arn, at=9), FLEET, machine_arn=machine_arn).action == "ignored"
    assert executions(states, machine_arn) == []
