"""What Step Functions would only find out while it runs: dangling names, misspelt parameters, tasks that hang."""

from __future__ import annotations

import json
import re
from typing import Any

import botocore.session
import pytest

from stepforge import errors
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.names import MACHINES
from stepforge.contracts.registry import Promotion, TrainOutput

from .machines import ASL, LOCAL, STATES, TASKS, TEXTS, resources, state, targets

ids = pytest.mark.parametrize


@ids("machine", MACHINES)
def test_every_token_is_supplied_and_none_besides(machine: str) -> None:
    definitions = resources(LOCAL, "AWS::StepFunctions::StateMachine").values()
    deployed = next(d for d in definitions if d["StateMachineName"] == f"stepforge-local-{machine}")
    assert set(re.findall(r"\$\{([^}]+)\}", TEXTS[machine])) == set(deployed["DefinitionSubstitutions"])


@ids("machine", MACHINES)
def test_every_state_is_reached_and_every_target_exists(machine: str) -> None:
    states, reached, todo = ASL[machine]["States"], set(), [ASL[machine]["StartAt"]]
    while todo:
        name = todo.pop()
        assert name in states, f"{machine} goes to {name!r}, which does not exist"
        if name not in reached:
            reached.add(name)
            todo += targets(states[name])
    assert reached == set(states)


@ids(("machine", "name"), STATES)
def test_every_state_ends_or_goes_on(machine: str, name: str) -> None:
    plain = state(machine, name)
    if plain["Type"] in ("Fail", "Succeed"):
        return
    ways = [key for key in ("Next", "End", "Default") if key in plain]
    assert len(ways) == 1, f"{machine}.{name} has {ways}"


@ids(("machine", "name"), TASKS)
def test_every_task_has_a_time_limit_retries_and_catches_everything(machine: str, name: str) -> None:
    task = state(machine, name)
    assert task["TimeoutSeconds"] > 0
    assert task["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert "Throttled" in json.dumps(task["Retry"]) or not task["Resource"].startswith("${")
    for retry in task["Retry"]:
        assert "States.ALL" not in retry["ErrorEquals"], "a job's own failure would be run again"
        assert retry["JitterStrategy"] == "FULL"


WAIT_FOR_PERSON = "arn:aws:states:::lambda:invoke.waitForTaskToken"


def service_of(resource: str) -> tuple[str, str] | None:
    """boto3 service and operation of a task's resource; None for handlers and nested executions."""
    if match := re.fullmatch(r"arn:aws:states:::(?:aws-sdk:)?(sagemaker):(\w+)(?:\.sync)?", resource):
        return match[1], match[2][0].upper() + match[2][1:]
    assert resource.startswith(("${", "arn:aws:states:::states:startExecution.sync:2", WAIT_FOR_PERSON)), resource
    return None


def misnamed(shape: Any, value: Any, path: str) -> list[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        found = []
        for key, item in value.items():
            name = key.removesuffix(".$")
            if name not in shape.members:
                found.append(f"{path}.{name}")
            elif not key.endswith(".$"):
                found += misnamed(shape.members[name], item, f"{path}.{name}")
        missing = set(shape.required_members) - {key.removesuffix(".$") for key in value}
        return found + [f"{path}.{name} is missing" for name in sorted(missing)]
    return []


SDK_TASKS = [(machine, name) for machine, name in TASKS if service_of(state(machine, name)["Resource"])]


@ids(("machine", "name"), SDK_TASKS)
def test_the_parameters_of_aws_tasks_are_those_of_the_api(machine: str, name: str) -> None:
    task = state(machine, name)
    service, operation = service_of(task["Resource"]) or ("", "")
    shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
    assert misnamed(shape, task["Parameters"], operation) == []


def test_a_misspelt_parameter_would_be_seen() -> None:
    shape = (
        botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape
    )
    assert "x.OutputDataConfig.KmsKey" in misnamed(shape, {"OutputDataConfig": {"KmsKey": "k"}}, "x")


def test_run_job_reads_the_fields_of_a_job_request() -> None:
    assert {key.removesuffix(".$") for key in state("run-job", "FindAttempt")["Parameters"]} == set(
        JobRequest.model_fields
    )
    for name in ("Dataset", "Gate", "Stage", "Evaluation"):
        given = {key.removesuffix(".$") for key in state("train", name)["Parameters"]["Input"]}
        assert given - {"AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"} == set(JobRequest.model_fields)


def test_train_ends_with_its_output_and_promote_reads_its_input() -> None:
    assert {key.removesuffix(".$") for key in state("train", "Report")["Parameters"]} == set(TrainOutput.model_fields)
    assert {key.removesuffix(".$") for key in state("promote", "Verify")["Parameters"]} == set(Promotion.model_fields)


def test_every_error_that_a_machine_names_is_one_that_stepforge_raises() -> None:
    text = "".join(TEXTS.values())
    named = set(re.findall(r'"StringEquals": "(\w+(?:Refused|Failed))"', text))
    named |= {n for n in re.findall(r'"(\w+)"', text) if n in ("Throttled", "PromotionBusy", "JobStillRunning")}
    assert named == {
        "ArtifactRefused",
        "SmokeFailed",
        "EndpointFailed",
        "Throttled",
        "PromotionBusy",
        "JobStillRunning",
    }
    assert all(issubclass(getattr(errors, name), errors.StepforgeError) for name in named)


def test_whatever_fails_after_a_candidate_exists_removes_it() -> None:
    """Follow every Catch from the states between DeployCandidate and the end: each passes RemoveFailedCandidate."""
    before = {"Verify", "Explain", "StampRefused", "StampFailed", "RemoveCandidate", "RemoveFailedCandidate"}
    for machine, name in TASKS:
        if machine == "promote" and name not in before:
            assert state(machine, name)["Catch"][-1]["Next"] in ("RemoveFailedCandidate", "RollBack"), name
    assert state("promote", "RollBack")["Next"] == "RemoveFailedCandidate"
    assert state("promote", "Stamp")["Next"] == "RemoveCandidate"


def test_an_execution_that_only_polls_stays_within_the_history_of_step_functions() -> None:
    from cdk.settings import SETTINGS

    events_a_look, most_events, longest_job_days = 10, 25_000, 5
    assert longest_job_days * 86_400 / SETTINGS["dev"].job_poll_seconds * events_a_look < most_events


def test_a_paid_tune_is_watched_for_a_month_within_the_history_of_step_functions() -> None:
    from cdk.settings import SETTINGS

    asl, settings = ASL["finetune"], SETTINGS["dev"]
    looks = asl["TimeoutSeconds"] / settings.finetune_most_seconds
    # Wait 2, task 5, choice 2; and two weeks at least are watched.
    assert looks * 9 + 500 < 25_000
    assert asl["TimeoutSeconds"] >= 14 * 86_400
    assert state("finetune", "AskPerson")["TimeoutSeconds"] == 7 * 86_400


def test_the_machine_finetune_calls_each_step_by_its_name() -> None:
    from stepforge.finetune import flow

    parameters = [state("finetune", name)["Parameters"] for machine, name in TASKS if machine == "finetune"]
    actions = {p.get("Payload", p).get("action") for p in parameters} - {None, "ask_person", "launch"}
    assert all(callable(getattr(flow, action)) for action in actions)
    assert actions == {"decide", "look", "retrieve", "evaluate", "register", "give_up"}
