"""What the machines say of this project; what every machine must have is in the checker."""

from __future__ import annotations

import json
import re

import pytest

from stepforge import errors
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.registry import Promotion, TrainOutput

from .machines import ASL, TASKS, TEXTS, state, targets

HANDLED = [(machine, name) for machine, name in TASKS if state(machine, name)["Resource"].startswith("${")]


@pytest.mark.parametrize(("machine", "name"), HANDLED)
def test_a_throttled_handler_is_asked_again(machine: str, name: str) -> None:
    assert "Throttled" in json.dumps(state(machine, name)["Retry"])


def test_run_job_reads_the_fields_of_a_job_request() -> None:
    assert {key.removesuffix(".$") for key in state("run-job", "FindAttempt")["Parameters"]} == set(
        JobRequest.model_fields
    )
    for name in ("Dataset", "Gate", "Stage", "Evaluation"):
        given = {key.removesuffix(".$") for key in state("train", name)["Parameters"]["Input"]}
        assert given - {"AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"} == set(JobRequest.model_fields)


def test_train_ends_with_its_output_and_promote_reads_its_input() -> None:
    assert {key.removesuffix(".$") for key in state("train", "Report")["Parameters"]} == set(TrainOutput.model_fields)
    # Its input as it is, so that a field that a running execution was started without may come.
    assert "Parameters" not in state("promote", "Verify")
    stamps = [state(machine, name) for machine, name in TASKS if machine == "promote" and name.startswith("Stamp")]
    assert len(stamps) == 6
    assert {found["Parameters"]["promotion.$"] for found in stamps} == {"$$.Execution.Input"}
    assert [name for name, field in Promotion.model_fields.items() if not field.is_required()] == ["approved_at"]


def test_every_error_that_a_machine_names_is_one_that_stepforge_raises() -> None:
    text = "".join(TEXTS.values())
    named = set(re.findall(r'"StringEquals": "(\w+(?:Refused|Failed))"', text))
    named |= {
        n for n in re.findall(r'"(\w+)"', text) if n in ("Throttled", "PromotionBusy", "JobStillRunning", "NameTaken")
    }
    assert named == {
        "ArtifactRefused",
        "SmokeFailed",
        "EndpointFailed",
        "Throttled",
        "PromotionBusy",
        "JobStillRunning",
        "NameTaken",
    }
    assert all(issubclass(getattr(errors, name), errors.StepforgeError) for name in named)


def test_whatever_fails_after_a_candidate_exists_removes_it() -> None:
    """Follow every Catch from the states between DeployCandidate and the end: each passes RemoveFailedCandidate."""
    stamps = {"StampTrying", "StampRefused", "StampFailed", "StampCutOff"}
    before = {"Verify", "Explain", "RemoveCandidate", "RemoveFailedCandidate", *stamps}
    for machine, name in TASKS:
        if machine == "promote" and name not in before:
            assert state(machine, name)["Catch"][-1]["Next"] in ("RemoveFailedCandidate", "RollBack"), name
    assert set(targets(state("promote", "RolledBack"))) == {"RemoveFailedCandidate", "RollBackUnread"}
    for unread in ("RollBackUnread", "CandidateUnread", "LookUnread"):
        assert state("promote", unread)["Next"] == "RemoveFailedCandidate"
    assert state("promote", "Stamp")["Next"] == "RemoveCandidate"


def test_what_waits_for_a_token_waits_for_a_person_and_so_has_a_time_out_and_no_heartbeat() -> None:
    """A person sends none; a program that held a token would have to, and a heartbeat belonged to its task."""
    waiting = {(machine, name) for machine, name in TASKS if "waitForTaskToken" in state(machine, name)["Resource"]}
    assert waiting == {("approve", "Ask"), ("finetune", "AskPerson")}
    for machine, name in TASKS:
        found = state(machine, name)
        assert found.get("TimeoutSeconds", 0) > 0 or "TimeoutSecondsPath" in found
        assert not {"HeartbeatSeconds", "HeartbeatSecondsPath"} & set(found)


def test_an_execution_that_only_polls_stays_within_the_history_of_step_functions() -> None:
    from cdk.settings import settings

    events_a_look, most_events, longest_job_days = 10, 25_000, 5
    assert longest_job_days * 86_400 / settings("dev").job_poll_seconds * events_a_look < most_events


def test_a_paid_tune_is_watched_for_a_month_within_the_history_of_step_functions() -> None:
    from cdk.settings import settings

    asl = ASL["finetune"]
    looks = asl["TimeoutSeconds"] / settings("dev").finetune_most_seconds
    # Wait 2, task 5, choice 2; and two weeks at least are watched.
    assert looks * 9 + 500 < 25_000
    assert asl["TimeoutSeconds"] >= 14 * 86_400
    assert state("finetune", "AskPerson")["TimeoutSeconds"] == 7 * 86_400


def test_the_machine_finetune_calls_each_step_by_its_name() -> None:
    from stepforge.finetune import flow

    parameters = [state("finetune", name)["Parameters"] for machine, name in TASKS if machine == "finetune"]
    actions = {p.get("Payload", p).get("action") for p in parameters} - {None, "ask_person", "launch"}
    assert all(callable(getattr(flow, action)) for action in actions)
    assert actions == {"decide", "look", "retrieve", "evaluate", "release", "register", "give_up"}
