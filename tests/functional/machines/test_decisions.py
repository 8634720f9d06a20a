"""Decisions that change while a promotion runs, and events that come often, late or never."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from stepforge.contracts.registry import TrainOutput
from stepforge.registry import Registry
from tests.functional.local_aws.helpers import wait

from .conftest import GROUP, Deployed, candidate_exists, deaf


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
    there = GROUP in deployed.endpoints()
    return sagemaker.describe_endpoint(EndpointName=GROUP)["EndpointConfigName"] if there else None


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
