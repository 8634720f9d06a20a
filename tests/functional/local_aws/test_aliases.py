"""Versions and aliases of state machines: made by CloudFormation, started, shifted and rolled back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge.local import LocalAws
from tests.functional.local_aws.helpers import ROLE, execution_ended, wait
from tests.functional.local_aws.helpers import machine as machine_of

Json = Any
STACK, ALARM = "versioned", "versioned-failed"


def template(said: str, *, kind: str = "CANARY") -> str:
    """A machine that answers `said`, with the alias `live`."""
    definition = {"StartAt": "Say", "States": {"Say": {"Type": "Pass", "Result": said, "End": True}}}
    shift = {} if kind == "ALL_AT_ONCE" else {"Interval": 5, "Percentage": 10}
    machine = {"StateMachineName": "versioned", "RoleArn": ROLE, "DefinitionString": json.dumps(definition)}
    alarm = {
        "AlarmName": ALARM, "Namespace": "AWS/States", "MetricName": "ExecutionsFailed", "Statistic": "Sum",
        "Period": 60, "EvaluationPeriods": 1, "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    }  # fmt: skip
    preference = {"StateMachineVersionArn": {"Ref": "Version"}, "Type": kind, "Alarms": [ALARM], **shift}
    resources = {
        "Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": machine},
        "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm},
        "Version": {
            "Type": "AWS::StepFunctions::StateMachineVersion",
            "Properties": {
                "StateMachineArn": {"Ref": "Machine"},
                "StateMachineRevisionId": {"Fn::GetAtt": ["Machine", "StateMachineRevisionId"]},
            },
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Retain",
        },
        "Alias": {
            "Type": "AWS::StepFunctions::StateMachineAlias",
            "Properties": {
                "Name": "live",
                "StateMachineArn": {"Ref": "Machine"},
                "DeploymentPreference": preference,
            },
        },
    }
    return json.dumps({"Resources": resources})


def rest(aws: LocalAws, stack: str = STACK) -> str:
    cloudformation = aws.client("cloudformation")
    found = wait(
        lambda: cloudformation.describe_stacks(StackName=stack)["Stacks"][0],
        lambda stack: not stack["StackStatus"].endswith("_IN_PROGRESS"),
    )
    return str(found["StackStatus"])


def update(aws: LocalAws, said: str, **more: str) -> str:
    aws.client("cloudformation").update_stack(StackName=STACK, TemplateBody=template(said, **more))
    return rest(aws)


def answer(aws: LocalAws, arn: str) -> Json:
    return execution_ended(aws, aws.client("stepfunctions").start_execution(stateMachineArn=arn)["executionArn"])


def read(aws: LocalAws, kind: str, identifier: str) -> Json:
    found = aws.client("cloudcontrol").get_resource(TypeName=f"AWS::StepFunctions::{kind}", Identifier=identifier)
    return json.loads(found["ResourceDescription"]["Properties"])


@pytest.fixture(scope="module")
def machine(local_aws: LocalAws) -> str:
    local_aws.client("cloudformation").create_stack(StackName=STACK, TemplateBody=template("first"))
    assert rest(local_aws) == "CREATE_COMPLETE"
    return f"arn:aws:states:{local_aws.region}:{local_aws.account_id}:stateMachine:versioned"


def test_an_alias_starts_the_version_that_it_points_to_and_the_version_is_told(
    local_aws: LocalAws, machine: str
) -> None:
    states = local_aws.client("stepfunctions")
    ended = answer(local_aws, f"{machine}:live")
    assert (json.loads(ended["output"]), ended["stateMachineArn"]) == ("first", machine)
    assert ended["executionArn"] == f"{machine.replace(':stateMachine:', ':execution:')}:{ended['name']}"
    assert (ended["stateMachineVersionArn"], ended["stateMachineAliasArn"]) == (f"{machine}:1", f"{machine}:live")
    plain = answer(local_aws, machine)
    assert not {"stateMachineVersionArn", "stateMachineAliasArn"} & set(plain)
    for arn, count in ((machine, 2), (f"{machine}:live", 1), (f"{machine}:1", 1)):
        assert len(states.list_executions(stateMachineArn=arn)["executions"]) == count, arn
    assert states.describe_state_machine(stateMachineArn=f"{machine}:live")["name"] == "versioned"


def test_a_name_is_the_machines_whatever_started_it(local_aws: LocalAws) -> None:
    states = local_aws.client("stepfunctions")
    waits = machine_of(local_aws, "waits", {"Wait": {"Type": "Wait", "Seconds": 60, "End": True}})
    version = states.publish_state_machine_version(stateMachineArn=waits)["stateMachineVersionArn"]
    route = [{"stateMachineVersionArn": version, "weight": 100}]
    alias = states.create_state_machine_alias(name="live", routingConfiguration=route)["stateMachineAliasArn"]
    (arn,) = {
        states.start_execution(stateMachineArn=started, name="same", input="{}")["executionArn"]
        for started in (alias, waits, version)
    }
    states.stop_execution(executionArn=arn)
    with pytest.raises(states.exceptions.ExecutionAlreadyExists):
        states.start_execution(stateMachineArn=alias, name="same", input="{}")


def test_a_changed_definition_is_another_version_and_the_one_before_is_kept(local_aws: LocalAws, machine: str) -> None:
    states = local_aws.client("stepfunctions")
    assert update(local_aws, "second") == "UPDATE_COMPLETE"
    routed = states.describe_state_machine_alias(stateMachineAliasArn=f"{machine}:live")["routingConfiguration"]
    assert routed == [{"stateMachineVersionArn": f"{machine}:2", "weight": 100}]
    assert json.loads(answer(local_aws, f"{machine}:live")["output"]) == "second"
    assert json.loads(answer(local_aws, f"{machine}:1")["output"]) == "first"
    preference = read(local_aws, "StateMachineAlias", f"{machine}:live")["DeploymentPreference"]
    assert (preference["Alarms"], preference["StateMachineVersionArn"]) == ([ALARM], f"{machine}:2")
    assert read(local_aws, "StateMachineVersion", f"{machine}:2")["StateMachineArn"] == machine
    # Published again, the same revision is the same version.
    assert states.publish_state_machine_version(stateMachineArn=machine)["stateMachineVersionArn"] == f"{machine}:2"


def test_an_alarm_that_rings_rolls_a_gradual_deployment_back(local_aws: LocalAws, machine: str) -> None:
    cloudwatch = local_aws.client("cloudwatch")
    before = answer(local_aws, f"{machine}:live")["stateMachineVersionArn"]
    cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="ALARM", StateReason="a trial")
    try:
        assert update(local_aws, "broken") == "UPDATE_ROLLBACK_COMPLETE"
    finally:
        cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="OK", StateReason="a trial")
    ended = answer(local_aws, f"{machine}:live")
    assert json.loads(ended["output"]) == "second"
    assert ended["stateMachineVersionArn"] == before
    # What the machine itself says is what the stack says again.
    assert json.loads(answer(local_aws, machine)["output"]) == "second"


def test_nothing_is_left_of_a_machine_that_is_deleted(local_aws: LocalAws, machine: str) -> None:
    cloudformation, states = local_aws.client("cloudformation"), local_aws.client("stepfunctions")
    stack = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["StackId"]
    cloudformation.delete_stack(StackName=STACK)
    assert rest(local_aws, stack) == "DELETE_COMPLETE"
    for qualifier in ("", ":live", ":1", ":2"):
        with pytest.raises(states.exceptions.StateMachineDoesNotExist):
            states.describe_state_machine(stateMachineArn=machine + qualifier)
    with pytest.raises(ClientError, match="ResourceNotFound"):
        states.describe_state_machine_alias(stateMachineAliasArn=f"{machine}:live")
    for kind in ("StateMachineVersion", "StateMachineAlias"):
        listed = local_aws.client("cloudcontrol").list_resources(TypeName=f"AWS::StepFunctions::{kind}")
        assert not [one for one in listed["ResourceDescriptions"] if one["Identifier"].startswith(machine)], kind
