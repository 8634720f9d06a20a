"""A trace goes from who starts an execution to the handlers that it calls, through the executions that it starts."""

from __future__ import annotations

import json

from stepforge import logs
from stepforge.local import LocalAws
from stepforge.local.lifecycle import _tail
from stepforge.machines import executions
from tests.functional.local_aws.helpers import execution_ended, function, machine

TELLS = """
import os
def handler(event, context):
    return os.environ.get("_X_AMZN_TRACE_ID", "")
"""
TRACE = "1-67890abc-0123456789abcdef01234567"


def test_a_trace_reaches_the_handlers_of_nested_executions(local_aws: LocalAws) -> None:
    function(local_aws, "trace-tells", TELLS)
    tell = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": "trace-tells", "Payload": {}},
        "ResultSelector": {"trace.$": "$.Payload"},
        "End": True,
    }
    child = machine(local_aws, "trace-told", {"T": tell})
    nest = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": {"StateMachineArn": child, "Name": "nested", "Input": {}},
        "ResultSelector": {"trace.$": "$.Output.trace"},
        "End": True,
    }
    parent = machine(local_aws, "trace-nests", {"T": nest})
    states = local_aws.client("stepfunctions")
    with logs.context(trace_id=TRACE):
        started = executions.start_or_adopt(states, parent, "train", "ab" * 32, {})
    done = execution_ended(local_aws, started.arn, seconds=30)
    assert done["status"] == "SUCCEEDED", done.get("cause")
    assert logs.trace_of(json.loads(done["output"])["trace"]) == TRACE


def test_an_execution_without_a_trace_begins_one(local_aws: LocalAws) -> None:
    function(local_aws, "trace-tells-too", TELLS)
    tell = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": "trace-tells-too", "Payload": {}},
        "End": True,
    }
    arn = machine(local_aws, "trace-tells-too", {"T": tell})
    started = local_aws.client("stepfunctions").start_execution(stateMachineArn=arn, name="plain", input="{}")
    done = execution_ended(local_aws, started["executionArn"], seconds=30)
    assert TRACE not in json.loads(done["output"])["Payload"]


def test_the_servers_log_is_json_for_programs_and_text_for_people(local_aws: LocalAws) -> None:
    path = local_aws.home / "local" / "server.log"
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith('{"time"')]
    assert {line["service"] for line in lines} == {"stepforge.local"}
    assert any(line["message"].startswith("ready on port") for line in lines)
    assert any(" INFO stepforge.local ready on port" in line for line in _tail(path, 10_000))
