"""A new definition of a machine takes over gradually, and whoever starts a machine starts what is live."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cdk.settings import settings

from stepforge.contracts.names import LIVE, MACHINES, parameter

from .conftest import Synth
from .machines import ASL, resources, state
from .principals import Cloud

ENVIRONMENTS = ("local", "dev", "staging", "prod")
METRICS = {"failed": "ExecutionsFailed", "timed-out": "ExecutionsTimedOut"}
Json = Any


def machine_of(template: Json, name: str, environment: str) -> tuple[str, Json]:
    """Logical id of a machine, and the properties of its one alias."""
    found = resources(template, "AWS::StepFunctions::StateMachine").items()
    (logical,) = [k for k, given in found if given["StateMachineName"] == f"stepforge-{environment}-{name}"]
    aliases = resources(template, "AWS::StepFunctions::StateMachineAlias").values()
    (alias,) = [alias for alias in aliases if alias["StateMachineArn"] == {"Ref": logical}]
    return logical, alias


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", MACHINES)
def test_a_changed_machine_is_a_new_version_that_its_alias_points_to(synth: Synth, name: str, environment: str) -> None:
    template = synth.templates[environment]
    machine, alias = machine_of(template, name, environment)
    assert alias["Name"] == LIVE
    version = template["Resources"][alias["DeploymentPreference"]["StateMachineVersionArn"]["Ref"]]
    # The revision is another one after each change, and a version of another revision is another version.
    assert version["Properties"] == {
        "StateMachineArn": {"Ref": machine},
        "StateMachineRevisionId": {"Fn::GetAtt": [machine, "StateMachineRevisionId"]},
    }
    assert (version["UpdateReplacePolicy"], version["DeletionPolicy"]) == ("Retain", "Delete")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", MACHINES)
def test_a_deployment_goes_back_when_an_execution_of_its_machine_fails_or_times_out(
    synth: Synth, name: str, environment: str
) -> None:
    template = synth.templates[environment]
    machine, alias = machine_of(template, name, environment)
    preference, gradual = alias["DeploymentPreference"], settings(environment).gradual
    shift = {"Interval": gradual.minutes, "Percentage": gradual.percent} if gradual.type != "ALL_AT_ONCE" else {}
    assert {k: v for k, v in preference.items() if k in ("Type", "Interval", "Percentage")} == {
        "Type": gradual.type, **shift,
    }  # fmt: skip
    alarms = {a["AlarmName"]: a for a in resources(template, "AWS::CloudWatch::Alarm").values()}
    assert preference["Alarms"] == [f"stepforge-{environment}-{name}-{ending}" for ending in METRICS]
    for alarm, metric in zip(preference["Alarms"], METRICS.values(), strict=True):
        found = alarms[alarm]
        assert (found["MetricName"], found["Statistic"], found["Threshold"]) == (metric, "Sum", 1)
        assert found["Dimensions"] == [{"Name": "StateMachineArn", "Value": {"Ref": machine}}]


def test_what_others_depend_on_changes_gradually() -> None:
    assert {name: settings(name).gradual.type for name in ENVIRONMENTS} == {
        "local": "ALL_AT_ONCE", "dev": "ALL_AT_ONCE", "staging": "CANARY", "prod": "CANARY",
    }  # fmt: skip


@pytest.mark.parametrize("environment", ["local", "dev"])
def test_clients_handlers_and_machines_are_given_the_alias(synth: Synth, environment: str) -> None:
    template = synth.templates[environment]
    aliases = {
        logical: properties["StateMachineArn"]["Ref"]
        for logical, properties in resources(template, "AWS::StepFunctions::StateMachineAlias").items()
    }
    told = {p["Name"]: p["Value"] for p in resources(template, "AWS::SSM::Parameter").values()}
    for name in MACHINES:
        machine, _ = machine_of(template, name, environment)
        assert aliases[told[parameter(environment, f"machines/{name}")]["Ref"]] == machine
    run_job, _ = machine_of(template, "run-job", environment)
    given = [
        machine["DefinitionSubstitutions"]["RunJobArn"]["Ref"]
        for machine in resources(template, "AWS::StepFunctions::StateMachine").values()
        if "RunJobArn" in machine["DefinitionSubstitutions"]
    ]
    assert [aliases[alias] for alias in given] == [run_job] * 3
    functions = resources(template, "AWS::Lambda::Function").values()
    starts = [f["Environment"]["Variables"]["PROMOTE_ARN"] for f in functions if f["Handler"] == "on_approval.handler"]
    assert [Cloud(template).plain(arn).rpartition(":stateMachine:")[2] for arn in starts] == [
        f"stepforge-{environment}-promote:{LIVE}"
    ]


def test_events_are_awaited_of_the_machine_whatever_started_it(synth: Synth) -> None:
    """An event tells the machine's ARN in `stateMachineArn`, and the alias's in a field of its own."""
    template = synth.templates["dev"]
    machine, _ = machine_of(template, "finetune", "dev")
    rules = resources(template, "AWS::Events::Rule").values()
    (rule,) = [rule for rule in rules if rule["Name"] == "stepforge-dev-finetune-stopped"]
    assert rule["EventPattern"]["detail"]["stateMachineArn"] == [{"Ref": machine}]


def test_an_alarm_that_a_promotion_makes_tells_the_topic_that_the_others_tell(synth: Synth) -> None:
    template = synth.templates["dev"]
    cloud = Cloud(template)
    (deploy,) = [f for f in resources(template, "AWS::Lambda::Function").values() if f["Handler"] == "deploy.handler"]
    topic = cloud.plain(deploy["Environment"]["Variables"]["ALARM_TOPIC_ARN"])
    alarms = resources(template, "AWS::CloudWatch::Alarm").values()
    assert {arn for alarm in alarms for arn in cloud.plain(alarm["AlarmActions"])} == {topic}
    # CloudWatch publishes by its own name, so the handler that makes the alarm need not be able to.
    policies = [
        policy["PolicyDocument"]["Statement"]
        for policy in resources(template, "AWS::SNS::TopicPolicy").values()
        if topic in [cloud.plain(arn) for arn in policy["Topics"]]
    ]
    publish = [s for statements in policies for s in statements if s["Action"] == "sns:Publish"]
    (allowed,) = [s["Principal"]["Service"] for s in publish if s["Effect"] == "Allow"]
    assert "cloudwatch.amazonaws.com" in allowed
    assert "FunctionsDeploy" not in cloud.who_may("sns:Publish", topic)
    own = "arn:aws:cloudwatch:us-east-1:123456789012:alarm:stepforge-dev---facial-5xx"
    assert "FunctionsDeploy" in cloud.who_may("cloudwatch:PutMetricAlarm", own)


# ── Waiting for a quota ──────────────────────────────────────────────────────────────────────────


def expected_seconds(retrier: Json) -> float:
    """Of all its waits together. FULL jitter draws each from 0 to the delay.

    https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
    """
    assert retrier["JitterStrategy"] == "FULL"
    delays = (retrier["IntervalSeconds"] * retrier["BackoffRate"] ** n for n in range(retrier["MaxAttempts"]))
    return sum(min(delay, retrier["MaxDelaySeconds"]) / 2 for delay in delays)


@pytest.mark.parametrize("name", ["Create", "CreateInVpc"])
def test_a_job_waits_a_day_for_a_quota_within_the_history_of_an_execution(name: str) -> None:
    retriers = state("run-job", name)["Retry"]
    (queue,) = [r for r in retriers if "SageMaker.ResourceLimitExceeded" in r["ErrorEquals"]]
    # Uniform delays: the spread of n of them is their range times the root of n / 12. Three of it are no surprise.
    spread = queue["MaxDelaySeconds"] * (queue["MaxAttempts"] / 12) ** 0.5
    assert expected_seconds(queue) - 3 * spread >= 24 * 3600
    assert expected_seconds(queue) <= 30 * 3600
    # Scheduled, started and failed, of at most 25,000 events; the machine's own limit is far beyond.
    assert 3 * queue["MaxAttempts"] < 5_000
    assert expected_seconds(queue) < ASL["run-job"]["TimeoutSeconds"] / 10


def test_both_ways_to_create_a_job_wait_alike() -> None:
    assert json.dumps(state("run-job", "Create")["Retry"]) == json.dumps(state("run-job", "CreateInVpc")["Retry"])
