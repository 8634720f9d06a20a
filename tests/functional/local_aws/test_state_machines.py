"""Step Functions: the conditions under which ministack stays, and what the project's machines rely on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from stepforge.local import LocalAws
from tests.functional.local_aws.helpers import (
    bucket,
    ended,
    execution_ended,
    function,
    job_request,
    machine,
    register,
    run_machine,
    wait,
)

Json = Any
LAMBDA = "arn:aws:states:::lambda:invoke"
CAUGHT = {"Caught": {"Type": "Pass", "End": True}}
RAISES = """
class Overrun(Exception): pass
calls = 0
def handler(event, context):
    raise Overrun("over the budget")
"""


def task(resource: str, parameters: Json, **more: Json) -> Json:
    return {"Type": "Task", "Resource": resource, "Parameters": parameters, "End": True, **more}


def catch(*errors: str) -> Json:
    return [{"ErrorEquals": list(errors), "ResultPath": "$.error", "Next": "Caught"}]


@pytest.fixture(scope="module")
def raises(local_aws: LocalAws) -> str:
    function(local_aws, "raises", RAISES)
    return "raises"


@pytest.fixture(scope="module")
def queue(local_aws: LocalAws) -> str:
    return local_aws.client("sqs").create_queue(QueueName="tokens")["QueueUrl"]


def ask(queue: str, **more: Json) -> Json:
    return task(
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        {"QueueUrl": queue, "MessageBody": {"token.$": "$$.Task.Token"}},
        **more,
    )


def receive(aws: LocalAws, queue: str) -> str:
    sqs = aws.client("sqs")
    messages = wait(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"), bool)
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=messages[0]["ReceiptHandle"])
    return json.loads(messages[0]["Body"])["token"]


def test_catch_and_retry_go_by_the_class_of_a_handlers_exception(local_aws: LocalAws, raises: str) -> None:
    retry = [
        {"ErrorEquals": ["Overrun"], "IntervalSeconds": 1, "MaxAttempts": 1, "BackoffRate": 1, "MaxDelaySeconds": 1}
    ]
    state = task(LAMBDA, {"FunctionName": raises, "Payload.$": "$"}, Retry=retry, Catch=catch("Overrun"))
    done = run_machine(local_aws, "by-class", {"T": state, **CAUGHT})
    error = json.loads(done["output"])["error"]
    assert error["Error"] == "Overrun"
    assert json.loads(error["Cause"])["errorMessage"] == "over the budget"
    history = local_aws.client("stepfunctions").get_execution_history(executionArn=done["executionArn"])["events"]
    assert [event["type"] for event in history].count("TaskFailed") == 2


def test_a_handler_that_fails_under_a_task_token_fails_the_task_at_once(local_aws: LocalAws, raises: str) -> None:
    parameters = {"FunctionName": raises, "Payload": {"token.$": "$$.Task.Token"}}
    state = task(f"{LAMBDA}.waitForTaskToken", parameters, TimeoutSeconds=30, Catch=catch("Overrun"))
    start = time.monotonic()
    done = run_machine(local_aws, "token-fails", {"T": state, **CAUGHT})
    assert json.loads(done["output"])["error"]["Error"] == "Overrun"
    assert time.monotonic() - start < 10


def test_every_attempt_has_a_token_of_its_own(local_aws: LocalAws, queue: str) -> None:
    retry = [{"ErrorEquals": ["Again"], "IntervalSeconds": 1, "MaxAttempts": 2, "JitterStrategy": "FULL"}]
    arn = machine(local_aws, "fresh-token", {"T": ask(queue, Retry=retry)})
    sfn = local_aws.client("stepfunctions")
    execution = sfn.start_execution(stateMachineArn=arn)["executionArn"]
    first = receive(local_aws, queue)
    sfn.send_task_failure(taskToken=first, error="Again", cause="once more")
    second = receive(local_aws, queue)
    assert first != second
    with pytest.raises(sfn.exceptions.TaskDoesNotExist):
        sfn.send_task_success(taskToken=first, output="{}")
    sfn.send_task_success(taskToken=second, output='{"answer": 1}')
    assert json.loads(execution_ended(local_aws, execution)["output"]) == {"answer": 1}


def test_a_task_without_heartbeats_times_out_and_one_with_them_does_not(local_aws: LocalAws, queue: str) -> None:
    state = ask(queue, HeartbeatSeconds=2, TimeoutSeconds=60, Catch=catch("States.HeartbeatTimeout"))
    arn = machine(local_aws, "heartbeat", {"T": state, **CAUGHT})
    sfn = local_aws.client("stepfunctions")
    execution = sfn.start_execution(stateMachineArn=arn, input="{}")["executionArn"]
    token = receive(local_aws, queue)
    for _ in range(5):
        time.sleep(0.5)
        sfn.send_task_heartbeat(taskToken=token)
    assert sfn.describe_execution(executionArn=execution)["status"] == "RUNNING"
    assert json.loads(execution_ended(local_aws, execution)["output"])["error"]["Error"] == "States.HeartbeatTimeout"


@pytest.mark.parametrize(
    "states",
    [
        {"P": {"Type": "Pass", "Parameters": {"x.$": "$.missing"}, "End": True}},
        {"P": {"Type": "Pass", "InputPath": "$.a[3].b", "End": True}},
        {
            "C": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.missing", "StringEquals": "x", "Next": "E"}],
                "Default": "E",
            },
            "E": {"Type": "Succeed"},
        },
        {"T": task(LAMBDA, {"FunctionName": "raises", "Payload.$": "$.missing"}, Catch=catch("States.ALL")), **CAUGHT},
    ],
    ids=["parameters", "input path", "choice", "not caught by States.ALL"],
)
def test_a_path_that_selects_nothing_is_a_runtime_error(
    local_aws: LocalAws, states: Json, request: pytest.FixtureRequest
) -> None:
    name = "missing-" + request.node.callspec.id.replace(" ", "-").replace(".", "")
    done = run_machine(local_aws, name, states, {"a": [1]})
    assert (done["status"], done["error"]) == ("FAILED", "States.Runtime")
    assert "$." in done["cause"]


def test_is_present_tells_null_from_absent(local_aws: LocalAws) -> None:
    choices = [
        {
            "And": [{"Variable": "$.null", "IsPresent": True}, {"Variable": "$.absent", "IsPresent": False}],
            "Next": "Yes",
        }
    ]
    states = {
        "C": {"Type": "Choice", "Choices": choices, "Default": "No"},
        "Yes": {"Type": "Succeed"},
        "No": {"Type": "Fail"},
    }
    assert run_machine(local_aws, "is-present", states, {"null": None})["status"] == "SUCCEEDED"


@pytest.fixture(scope="module")
def image(local_aws: LocalAws) -> str:
    bucket(local_aws, "machines")
    return register()


def test_a_machine_runs_a_training_job_and_gets_its_description(local_aws: LocalAws, image: str) -> None:
    state = task(
        "arn:aws:states:::sagemaker:createTrainingJob.sync", job_request("machine-a1", image, bucket="machines")
    )
    again = task(
        "arn:aws:states:::aws-sdk:sagemaker:describeTrainingJob",
        {"TrainingJobName": "machine-a1"},
        ResultSelector={"status.$": "$.TrainingJobStatus", "at.$": "$.CreationTime"},
    )
    del state["End"]
    done = run_machine(local_aws, "runs-job", {"T": {**state, "Next": "D"}, "D": again})
    assert done["status"] == "SUCCEEDED", done.get("cause")
    output = json.loads(done["output"])
    assert output["status"] == "Completed"
    assert output["at"].endswith("Z")


def test_a_failed_job_is_a_failed_task_with_the_description_as_cause(local_aws: LocalAws, image: str) -> None:
    request = job_request("machine-a2", image, bucket="machines", hyperparameters={"fail": "bad data"})
    state = task("arn:aws:states:::sagemaker:createTrainingJob.sync", request, Catch=catch("States.TaskFailed"))
    done = run_machine(local_aws, "job-fails", {"T": state, **CAUGHT})
    cause = json.loads(json.loads(done["output"])["error"]["Cause"])
    assert cause["FailureReason"] == "AlgorithmError: bad data, exit code: 3"
    assert isinstance(cause["CreationTime"], int)


@pytest.mark.parametrize(
    ("resource", "parameters", "error"),
    [
        ("aws-sdk:sagemaker:describeTrainingJob", {"TrainingJobName": "nobody"}, "SageMaker.SageMakerException"),
        ("sagemaker:createTrainingJob", {"TrainingJobName": "nobody"}, "SageMaker.AmazonSageMakerException"),
        ("sagemaker:createTrainingJob", "machine-a2", "SageMaker.ResourceInUseException"),
    ],
    ids=["sdk", "optimised", "taken"],
)
def test_errors_of_sagemaker_have_the_names_of_the_java_sdk(
    local_aws: LocalAws, image: str, resource: str, parameters: Json, error: str, request: pytest.FixtureRequest
) -> None:
    if isinstance(parameters, str):
        parameters = job_request(parameters, image, bucket="machines")
        if "machine-a2" not in {
            j["TrainingJobName"]
            for j in local_aws.client("sagemaker").list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
        }:
            local_aws.client("sagemaker").create_training_job(**parameters)
    done = run_machine(
        local_aws, f"errors-{request.node.callspec.id}", {"T": task(f"arn:aws:states:::{resource}", parameters)}
    )
    assert done["error"] == error


def test_stopping_an_execution_stops_its_child_and_the_job_of_the_child(local_aws: LocalAws, image: str) -> None:
    request = job_request("stopped-a1", image, bucket="machines", hyperparameters={"steps": "99", "seconds": "1"})
    child = machine(local_aws, "stop-child", {"T": task("arn:aws:states:::sagemaker:createTrainingJob.sync", request)})
    start = {"StateMachineArn": child, "Name": "child-r1", "Input": {}}
    parent = machine(local_aws, "stop-parent", {"T": task("arn:aws:states:::states:startExecution.sync:2", start)})
    sfn, sagemaker = local_aws.client("stepfunctions"), local_aws.client("sagemaker")
    execution = sfn.start_execution(stateMachineArn=parent)["executionArn"]
    wait(
        lambda: [
            j["TrainingJobStatus"]
            for j in sagemaker.list_training_jobs(NameContains="stopped-a1")["TrainingJobSummaries"]
        ],
        lambda found: found == ["InProgress"],
    )
    sfn.stop_execution(executionArn=execution, error="Stopped", cause="by the user")
    assert ended(local_aws, "stopped-a1")["TrainingJobStatus"] == "Stopped"
    children = sfn.list_executions(stateMachineArn=child)["executions"]
    assert [(c["name"], c["status"]) for c in children] == [("child-r1", "ABORTED")]
    assert sfn.describe_execution(executionArn=execution)["status"] == "ABORTED"


def test_a_child_has_a_name_a_parsed_output_and_fails_its_parent_with_itself_as_cause(local_aws: LocalAws) -> None:
    good = machine(local_aws, "good-child", {"P": {"Type": "Pass", "End": True}})
    bad = machine(local_aws, "bad-child", {"F": {"Type": "Fail", "Error": "Gate", "Cause": "record 17"}})
    nested = "arn:aws:states:::states:startExecution.sync:2"
    states = {
        "Good": {
            **task(
                nested,
                {"StateMachineArn": good, "Name": "r1", "Input": {"a": {"b": 1}}},
                ResultSelector={"b.$": "$.Output.a.b"},
                ResultPath="$.good",
            ),
            "Next": "Bad",
        },
        "Bad": task(nested, {"StateMachineArn": bad, "Name": "r1", "Input": {}}, Catch=catch("States.TaskFailed")),
        **CAUGHT,
    }
    del states["Good"]["End"]
    output = json.loads(run_machine(local_aws, "nests", states)["output"])
    assert output["good"] == {"b": 1}
    cause = json.loads(output["error"]["Cause"])
    assert (cause["Status"], cause["Error"], cause["Cause"]) == ("FAILED", "Gate", "record 17")


def test_the_same_start_twice_is_one_execution_while_it_runs(local_aws: LocalAws) -> None:
    sfn = local_aws.client("stepfunctions")
    arn = machine(local_aws, "once", {"W": {"Type": "Wait", "Seconds": 30, "End": True}})
    first = sfn.start_execution(stateMachineArn=arn, name="r1", input='{"a": 1}')["executionArn"]
    assert sfn.start_execution(stateMachineArn=arn, name="r1", input='{"a":1}')["executionArn"] == first
    with pytest.raises(sfn.exceptions.ExecutionAlreadyExists):
        sfn.start_execution(stateMachineArn=arn, name="r1", input='{"a": 2}')
    sfn.stop_execution(executionArn=first)
    with pytest.raises(sfn.exceptions.ExecutionAlreadyExists):
        sfn.start_execution(stateMachineArn=arn, name="r1", input='{"a": 1}')


def test_branches_of_a_parallel_have_contexts_of_their_own(local_aws: LocalAws, queue: str) -> None:
    branch = {"StartAt": "T", "States": {"T": ask(queue, ResultPath="$.got")}}
    arn = machine(local_aws, "branches", {"P": {"Type": "Parallel", "Branches": [branch, branch], "End": True}})
    sfn = local_aws.client("stepfunctions")
    execution = sfn.start_execution(stateMachineArn=arn, input="{}")["executionArn"]
    tokens = {receive(local_aws, queue), receive(local_aws, queue)}
    assert len(tokens) == 2
    for token in tokens:
        sfn.send_task_success(taskToken=token, output="1")
    assert json.loads(execution_ended(local_aws, execution)["output"]) == [{"got": 1}, {"got": 1}]


def test_the_items_of_a_distributed_map_end_with_the_execution_that_was_stopped(
    local_aws: LocalAws, queue: str
) -> None:
    item = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "Ask"}
    item["States"] = {"Ask": ask(queue)}
    mapped = {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": item, "End": True}
    states = local_aws.client("stepfunctions")
    arn = machine(local_aws, "mapped", {"M": mapped})
    started = states.start_execution(stateMachineArn=arn, name="stopped", input='{"items": [1, 2]}')["executionArn"]
    tokens = [receive(local_aws, queue) for _ in range(2)]
    states.stop_execution(executionArn=started)

    def known(token: str) -> bool:
        try:
            states.send_task_heartbeat(taskToken=token)
        except states.exceptions.TaskDoesNotExist:
            return False
        return True

    wait(lambda: [known(token) for token in tokens], lambda found: found == [False, False])
    assert states.describe_execution(executionArn=started)["status"] == "ABORTED"
