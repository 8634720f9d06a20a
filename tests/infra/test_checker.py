"""The static checker finds nothing in the committed machines, and each defect that is put into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stepforge.contracts.names import MACHINES

from .checker import Machine, findings
from .conftest import Synth
from .machines import committed

Json = Any


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_is_found_in_a_committed_machine(machine: str) -> None:
    assert findings(committed(machine)) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_nor_in_a_machine_as_dev_deploys_it(synth: Synth, machine: str) -> None:
    assert findings(committed(machine, synth.templates["dev"])) == []


def set_at(*path: str | int, to: Json) -> Callable[[Json], None]:
    def change(plain: Json) -> None:
        for part in path[:-1]:
            plain = plain[part]
        plain[path[-1]] = to

    return change


def drop(*path: str | int) -> Callable[[Json], None]:
    def change(plain: Json) -> None:
        for part in path[:-1]:
            plain = plain[part]
        del plain[path[-1]]

    return change


def of(*changes: Callable[[Json], None]) -> Callable[[Json], None]:
    def change(plain: Json) -> None:
        for one in changes:
            one(plain)

    return change


STRANGER = {"Type": "Pass", "Next": "Report"}
LOOP = {"Type": "Pass", "Next": "Loop"}
CREATE = ("States", "Create")
DEFECTS: dict[str, tuple[str, Callable[[Json], None], str, str]] = {
    "a token that nobody supplies": (
        "train", set_at("States", "Compare", "Resource", to="${CompairArn}"), "token", "supplied by nobody"),
    "a dangling Next": ("train", set_at("States", "Compare", "Next", to="Registre"), "target", "'Registre'"),
    "a dangling Default": ("train", set_at("States", "StageLeft", "Default", to="Evaluate"), "target", "'Evaluate'"),
    "a dangling Choice": (
        "train", set_at("States", "StageLeft", "Choices", 0, "Next", to="Stages"), "target", "'Stages'"),
    "a dangling Catch": (
        "promote", set_at("States", "Verify", "Catch", 0, "Next", to="Explane"), "target", "'Explane'"),
    "a wrong start": ("promote", set_at("StartAt", to="Start"), "target", "StartAt"),
    "a state that nothing reaches": ("train", set_at("States", "Stranger", to=STRANGER), "unreachable", "Stranger"),
    "a loop without a way out": (
        "train", of(set_at("States", "Loop", to=LOOP), set_at("States", "Compare", "Next", to="Loop")),
        "endless", ""),
    "two ways on": ("train", set_at("States", "Report", "Next", to="Explain"), "way", "['Next', 'End']"),
    "no way on": ("train", drop("States", "Report", "End"), "way", "has []"),
    "a misspelt field": ("train", set_at("States", "Compare", "TimeoutSecond", to=3), "field", "'TimeoutSecond'"),
    "a misspelt type": ("train", set_at("States", "StageLeft", "Type", to="Chioce"), "field", "'Chioce'"),
    "a task without a time-out": ("train", drop("States", "Compare", "TimeoutSeconds"), "timeout", "TimeoutSeconds"),
    "a heartbeat that nobody can send": (
        "train", set_at("States", "Compare", "HeartbeatSeconds", to=30), "heartbeat", "that nobody can send"),
    "a heartbeat after the time-out": (
        "finetune", set_at("States", "AskPerson", "HeartbeatSeconds", to=10**6), "heartbeat", "less than"),
    "a machine without a time-out": ("promote", drop("TimeoutSeconds"), "timeout", "the machine"),
    "a task without a catch": ("train", drop("States", "Compare", "Catch"), "catch", "States.ALL"),
    "a catch of some errors": (
        "train", set_at("States", "Compare", "Catch", 0, "ErrorEquals", to=["Throttled"]), "catch", "States.ALL"),
    "a catch that loses the input": (
        "train", drop("States", "Compare", "Catch", 0, "ResultPath"), "catch", "replaces the input"),
    "a task without a retry": ("train", drop("States", "Compare", "Retry"), "retry", "no Retry"),
    "a retry of everything": (
        "train", set_at("States", "Compare", "Retry", 0, "ErrorEquals", to=["States.ALL"]), "retry", "States.ALL"),
    "a retry without jitter": (
        "train", drop("States", "Compare", "Retry", 0, "JitterStrategy"), "retry", "JitterStrategy"),
    "a task that outlives its machine": (
        "promote", set_at("States", "Verify", "TimeoutSeconds", to=10**6), "timeout", "less than the machine's"),
    "a catch of everything before another": (
        "approve", set_at("States", "Ask", "Catch", 0, "ErrorEquals", to=["States.ALL"]), "catch", "stand alone"),
    "a catch of everything and something": (
        "approve", set_at("States", "Ask", "Catch", 0, "ErrorEquals", to=["States.Timeout", "States.ALL"]), "catch",
        "stand alone"),
    "a catch that loses the error": (
        "promote", set_at("States", "Verify", "Catch", 0, "ResultPath", to=None), "catch", "throws the error away"),
    "a retry of an error that Step Functions does not know": (
        "promote", set_at("States", "Verify", "Retry", 0, "ErrorEquals", to=["States.TimeOut"]), "retry",
        "does not raise"),
    "a retry of an error that nobody raises": (
        "promote", set_at("States", "DeployLive", "Retry", 0, "ErrorEquals", to=["PromotionBusi"]), "retry",
        "'PromotionBusi', which is no error"),
    "a misspelt field of a retry": (
        "promote", set_at("States", "Verify", "Retry", 0, "Intervalseconds", to=1), "retry", "Intervalseconds"),
    "a retry that is none": (
        "promote", set_at("States", "Verify", "Retry", 0, "MaxAttempts", to=0), "retry", "MaxAttempts"),
    "a misspelt parameter": (
        "run-job", set_at(*CREATE, "Parameters", "OutputDataConfig", to={"KmsKey": "k", "S3OutputPath": "s"}),
        "parameters", "OutputDataConfig.KmsKey does not exist"),
    "a misspelt parameter below a path": (
        "run-job", set_at(*CREATE, "Parameters", "EnableNetworkIsolating.$", to="$.x"), "parameters",
        "EnableNetworkIsolating does not exist"),
    "a parameter that is missing": (
        "run-job", drop(*CREATE, "Parameters", "TrainingJobName.$"), "parameters", "TrainingJobName is missing"),
    "a parameter of the wrong type": (
        "run-job", set_at(*CREATE, "Parameters", "StoppingCondition", to={"MaxRuntimeInSeconds": "60"}), "parameters",
        "must be integer"),
    "a value that the API does not know": (
        "run-job", set_at(*CREATE, "Parameters", "AlgorithmSpecification", "TrainingInputMode", to="Files"),
        "parameters", "'Files'"),
    "a result that the API does not give": (
        "run-job", set_at("States", "Describe", "ResultSelector", "status.$", to="$.TrainingStatus"), "parameters",
        "does not give"),
    "a call that does not exist": (
        "run-job", set_at("States", "Describe", "Resource", to="arn:aws:states:::aws-sdk:sagemaker:describeTrainings"),
        "resource", "does not exist"),
    "a misspelt parameter of a nested execution": (
        "train", set_at("States", "Gate", "Parameters", "StateMachine", to="m"), "parameters", "StateMachine"),
    "a path that is taken for text": (
        "train", set_at("States", "Compare", "Parameters", "state", to="$.state"), "path", "write state.$"),
    "a text that is taken for a path": (
        "train", set_at("States", "Compare", "Parameters", "state.$", to="state"), "path", "no path"),
    "a function that does not exist": (
        "run-job", set_at(*CREATE, "Parameters", "CheckpointConfig", to={"S3Uri.$": "States.Fromat('a')"}), "path",
        "States.Fromat"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_in_the_file_is_found(defect: str) -> None:
    name, change, rule, message = DEFECTS[defect]
    machine = committed(name)
    plain = json.loads(machine.text)
    change(plain)
    found = findings(machine._replace(text=json.dumps(plain)))
    assert any(f.rule == rule and message in f"{f.where} {f.message}" for f in found), found


def test_a_state_that_stands_twice_is_found() -> None:
    """The second silently takes the place of the first."""
    machine = committed("promote")
    twice = machine.text.replace('"SmokeLive": {', '"SmokeLive": {"Type": "Pass", "Next": "Stamp"}, "SmokeLive": {', 1)
    assert [f.message for f in findings(machine._replace(text=twice))] == [
        "'SmokeLive' stands twice in one object: one of them is lost"
    ]


def without(machine: Machine, action: str) -> Machine:
    """The machine with a role that lacks one action."""
    kept = []
    for statement in machine.statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if left := [a for a in actions if a != action]:
            kept.append({**statement, "Action": left})
    return machine._replace(statements=tuple(kept))


ACTIONS = sorted(
    {
        (name, action)
        for name in MACHINES
        for statement in committed(name).statements
        for action in (statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]])
        if not action.startswith(("xray:", "logs:"))
    }
)


@pytest.mark.parametrize(("name", "action"), ACTIONS)
def test_every_action_of_a_role_is_missed_where_it_lacks(name: str, action: str) -> None:
    found = findings(without(committed(name), action))
    assert [f.rule for f in found].count("permission") >= 1
    assert any(action in f.message for f in found)


@pytest.mark.parametrize("name", MACHINES)
def test_an_action_or_a_handler_that_no_state_needs_is_found(name: str) -> None:
    machine = committed(name)
    wider = {"Action": ["sagemaker:DeleteModelPackage"], "Resource": "*"}
    other = {"Action": "lambda:InvokeFunction", "Resource": {"Fn::GetAtt": ["FunctionsElsewhere", "Arn"]}}
    found = findings(machine._replace(statements=(*machine.statements, wider, other)))
    assert [f.rule for f in found] == ["too much", "too much"]
    assert "DeleteModelPackage" in found[0].message


def test_a_handler_that_the_role_may_not_call_is_found() -> None:
    machine = committed("train")
    tokens = {**machine.substitutions, "CompareArn": {"Fn::GetAtt": ["FunctionsElsewhere", "Arn"]}}
    rules = {f.rule for f in findings(machine._replace(substitutions=tokens))}
    assert rules == {"permission", "too much"}


def test_a_supplied_token_that_is_used_nowhere_is_found() -> None:
    machine = committed("train")
    found = findings(machine._replace(substitutions={**machine.substitutions, "Bucket": "b"}))
    assert [(f.rule, f.message) for f in found] == [("token", "Bucket is supplied and used nowhere")]
