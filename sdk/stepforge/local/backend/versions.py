"""Step Functions: published versions and aliases, as CloudFormation makes them and as executions run them.

Upstream serves the API of both; here are the two types of CloudFormation, and what upstream leaves out of the rest.
Both are also read by Cloud Control, which alone tells an alias's DeploymentPreference.

Not covered: the time that a gradual deployment takes. The alias points to the new version at once, unless an alarm of
the preference is in ALARM, which rolls the stack back as it does on AWS.
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachinealias.html
"""

from __future__ import annotations

import json
from types import FunctionType
from typing import Any

import ministack.services.cloudformation.provisioners as provisioners
import ministack.services.cloudwatch as cloudwatch
import ministack.services.stepfunctions as sfn

from stepforge.local.backend import recorded

Json = Any
MACHINE = "AWS::StepFunctions::StateMachine"
VERSION, ALIAS = "AWS::StepFunctions::StateMachineVersion", "AWS::StepFunctions::StateMachineAlias"
_publish_version = sfn._publish_state_machine_version
_delete_machine = sfn._delete_state_machine
_list_executions = sfn._list_executions
_MOST = 1_000


def install() -> None:
    sfn._publish_state_machine_version = publish_version
    sfn._delete_state_machine = delete_machine
    sfn._list_executions = list_executions
    known = provisioners._RESOURCE_HANDLERS
    delete = known[MACHINE]["delete"]

    def delete_stacks_machine(physical_id: str, properties: Json) -> None:
        delete(physical_id, properties)
        _forget_all_of(physical_id)

    known[MACHINE] = {**known[MACHINE], "delete": delete_stacks_machine}
    known.update(
        {
            VERSION: {"create": create_version, "update": update_version, "delete": delete_version},
            ALIAS: {"create": create_alias, "update": update_alias, "delete": delete_alias},
        }
    )


# --- The API


def publish_version(data: Json) -> Json:
    """Upstream publishes a revision as often as it is asked; on AWS the second answer is the first one."""
    machine = sfn._state_machines.get(data.get("stateMachineArn"))
    if machine is not None and data.get("revisionId") in (None, "", machine["revisionId"]):
        for arn, version in sfn._state_machine_versions.items():
            known = (version["stateMachineArn"], version["stateMachineRevisionId"])
            if known == (machine["stateMachineArn"], machine["revisionId"]):
                return sfn.json_response({"stateMachineVersionArn": arn, "creationDate": version["creationDate"]})
    return _publish_version(data)


def delete_machine(data: Json) -> Json:
    """Upstream leaves the machine's versions and aliases behind."""
    answer = _delete_machine(data)
    if answer[0] == 200:
        _forget_all_of(data["stateMachineArn"])
    return answer


def _forget_all_of(machine_arn: str) -> None:
    for type_name, kept in ((ALIAS, sfn._state_machine_aliases), (VERSION, sfn._state_machine_versions)):
        for arn in [arn for arn, _ in kept.items() if arn.rpartition(":")[0] == machine_arn]:
            del kept[arn]
            recorded.forget(type_name, arn)


def list_executions(data: Json) -> Json:
    """Upstream knows no execution of a version or an alias. One page has all of theirs here."""
    qualified = data.get("stateMachineArn", "")
    if qualified not in sfn._state_machine_aliases and qualified not in sfn._state_machine_versions:
        return _list_executions(data)
    found, token = [], None
    while True:
        page = {**data, "stateMachineArn": qualified.rpartition(":")[0], "maxResults": _MOST}
        status, headers, body = _list_executions(page | ({"nextToken": token} if token else {}))
        if status != 200:
            return status, headers, body
        answer = json.loads(body)
        for summary in answer["executions"]:
            started_by = started(sfn._executions[summary["executionArn"]])
            if qualified in started_by.values():
                found.append(summary | started_by)
        token = answer.get("nextToken")
        if token is None:
            return sfn.json_response({"executions": found[: data.get("maxResults") or _MOST]})


def asked_for(arn: str) -> dict[str, str]:
    """What DescribeExecution says of an execution that was started by this ARN: its version, and its alias."""
    if arn in sfn._state_machine_versions:
        return {"stateMachineVersionArn": arn}
    if arn in sfn._state_machine_aliases:
        return {"stateMachineVersionArn": sfn._execution_version_arn(arn), "stateMachineAliasArn": arn}
    return {}


def started(execution: Json) -> dict[str, str]:
    keys = ("stateMachineVersionArn", "stateMachineAliasArn")
    return {key: execution[key] for key in keys if execution.get(key)}


def pinned(run: Any, execution: Json) -> Any:
    """`run`, an upstream function that reads the machine's definition, with that of the version that was started.

    Upstream runs what the machine is now, whatever version it was asked for.
    """
    version = sfn._state_machine_versions.get(execution.get("stateMachineVersionArn"))
    machine = sfn._state_machines.get(execution["stateMachineArn"])
    if version is None or machine is None:
        return run
    names = {**vars(sfn), "_state_machines": {machine["stateMachineArn"]: {**machine, **version}}}
    return FunctionType(run.__code__, names, run.__name__, run.__defaults__, run.__closure__)


# --- CloudFormation


def create_version(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachineversion.html"""
    request = {"stateMachineArn": properties["StateMachineArn"], "description": properties.get("Description", "")}
    if "StateMachineRevisionId" in properties:
        request["revisionId"] = properties["StateMachineRevisionId"]
    arn = _answer(sfn._publish_state_machine_version(request))["stateMachineVersionArn"]
    recorded.keep(VERSION, arn, {**properties, "Arn": arn})
    return arn, {"Arn": arn}


def update_version(physical_id: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
    """Everything but the description makes another version."""
    fixed = ("StateMachineArn", "StateMachineRevisionId")
    if any(old.get(name) != new.get(name) for name in fixed):
        # The engine deletes what was before, or retains it.
        return create_version("", new, stack)
    sfn._state_machine_versions[physical_id]["description"] = new.get("Description", "")
    recorded.keep(VERSION, physical_id, {**new, "Arn": physical_id})
    return physical_id, {"Arn": physical_id}


def delete_version(physical_id: str, properties: Json) -> None:
    _answer(sfn._delete_state_machine_version({"stateMachineVersionArn": physical_id}))
    recorded.forget(VERSION, physical_id)


def create_alias(logical_id: str, properties: Json, stack: str) -> tuple[str, Json]:
    request = {
        "name": properties.get("Name") or provisioners._physical_name(stack, logical_id, max_len=80),
        "description": properties.get("Description", ""),
        "routingConfiguration": _routing(properties),
    }
    arn = _answer(sfn._create_state_machine_alias(request))["stateMachineAliasArn"]
    recorded.keep(ALIAS, arn, {**properties, "Arn": arn})
    return arn, {"Arn": arn}


def update_alias(physical_id: str, old: Json, new: Json, stack: str) -> tuple[str, Json]:
    if any(old.get(name) != new.get(name) for name in ("Name", "StateMachineArn")):
        return create_alias("", new, stack)
    routing = _routing(new)
    if routing != _routing(old):
        _guard(new)
    request = {"description": new.get("Description", ""), "routingConfiguration": routing}
    _answer(sfn._update_state_machine_alias({"stateMachineAliasArn": physical_id, **request}))
    recorded.keep(ALIAS, physical_id, {**new, "Arn": physical_id})
    return physical_id, {"Arn": physical_id}


def delete_alias(physical_id: str, properties: Json) -> None:
    _answer(sfn._delete_state_machine_alias({"stateMachineAliasArn": physical_id}))
    recorded.forget(ALIAS, physical_id)


def _routing(properties: Json) -> list[Json]:
    if ("DeploymentPreference" in properties) == ("RoutingConfiguration" in properties):
        raise ValueError(f"{ALIAS} takes one of DeploymentPreference and RoutingConfiguration")
    if "DeploymentPreference" in properties:
        preference = properties["DeploymentPreference"]
        return [{"stateMachineVersionArn": preference["StateMachineVersionArn"], "weight": 100}]
    return [
        {"stateMachineVersionArn": one["StateMachineVersionArn"], "weight": int(one["Weight"])}
        for one in properties["RoutingConfiguration"]
    ]


def _guard(properties: Json) -> None:
    """Raises ValueError for an alarm of the preference that is in ALARM; one that does not exist counts as OK."""
    preference = properties.get("DeploymentPreference", {})
    if preference.get("Type") == "ALL_AT_ONCE":
        return
    alarms = [cloudwatch._alarms.get(name) for name in preference.get("Alarms", [])]
    if ringing := [alarm["AlarmName"] for alarm in alarms if alarm and alarm["StateValue"] == "ALARM"]:
        raise ValueError(f"the alarms {ringing} are in ALARM: the alias stays where it was")


def _answer(answer: Json) -> Json:
    """What a service's function answered. Raises ValueError with the service's error."""
    status, _, body = answer
    text = body if isinstance(body, str) else body.decode()
    if status >= 400:
        raise ValueError(text)
    return json.loads(text)
