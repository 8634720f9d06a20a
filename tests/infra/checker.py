"""A static checker of state machines: what Step Functions would only find out while one runs, or never.

`findings(machine)` reads the ASL of a machine, the substitutions that its template supplies and the policies of its
role, and names each defect with its rule and state. It runs nothing and asks nobody.
Not covered: whether a JSONPath finds something, which the machines' tests on the local AWS show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import botocore.session

from .catching import of_state

Json = Any


class Machine(NamedTuple):
    name: str
    text: str
    substitutions: dict[str, Json]
    """Token to its value in the template."""
    statements: tuple[dict[str, Json], ...]
    """Of the role's policies."""
    aliases: dict[str, Json] = {}
    """Logical id of an alias to the machine that it belongs to: IAM is asked about this one."""


class Finding(NamedTuple):
    rule: str
    where: str
    message: str


@dataclass(frozen=True)
class Level:
    """The states of a machine, of a branch or of a Map's processor."""

    path: str
    start: str
    states: dict[str, dict[str, Json]]


@dataclass(frozen=True)
class Need:
    """What a state makes its machine's role do. `resource` is None where the action alone is looked at."""

    action: str
    resource: str | None
    where: str


BASE = {
    "xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets",
    "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups",
}  # fmt: skip
"""What every machine does: traces, and the delivery of its logs."""
_MANAGED_RULE = ("events:PutTargets", "events:PutRule", "events:DescribeRule")
_SAGEMAKER_VOLUMES = ("kms:CreateGrant", "kms:DescribeKey")

_COMMON = {"Type", "Comment", "InputPath", "OutputPath"}
_GOES_ON = {"Next", "End"}
_GUARDED = {"Retry", "Catch", "ResultPath", "ResultSelector", "Parameters"}
# https://states-language.net/spec.html#state-type-table
FIELDS: dict[str, set[str]] = {
    "Task": _COMMON | _GOES_ON | _GUARDED
    | {"Resource", "TimeoutSeconds", "TimeoutSecondsPath", "HeartbeatSeconds", "HeartbeatSecondsPath", "Credentials"},
    "Map": _COMMON | _GOES_ON | _GUARDED - {"Parameters"}
    | {"ItemProcessor", "ItemReader", "ItemSelector", "ItemsPath", "ItemBatcher", "ResultWriter", "Label",
       "MaxConcurrency", "ToleratedFailurePercentage", "ToleratedFailureCount"},
    "Parallel": _COMMON | _GOES_ON | _GUARDED | {"Branches"},
    "Pass": _COMMON | _GOES_ON | {"Result", "ResultPath", "Parameters"},
    "Wait": _COMMON | _GOES_ON | {"Seconds", "SecondsPath", "Timestamp", "TimestampPath"},
    "Choice": _COMMON | {"Choices", "Default"},
    "Succeed": _COMMON,
    "Fail": {"Type", "Comment", "Error", "ErrorPath", "Cause", "CausePath"},
}  # fmt: skip
_INTRINSICS = {"Format", "StringToJson", "JsonToString", "Array", "ArrayLength", "ArrayGetItem", "MathAdd", "Hash"}
_RESOURCE = re.compile(r"arn:aws:states:::(aws-sdk:)?(\w+):(\w+)(\.sync(?::2)?|\.waitForTaskToken)?")
_SERVICES = {"states": "stepfunctions", "sfn": "stepfunctions"}
_PATH = re.compile(r"\$\$?(\.[A-Za-z_]\w*|\[\d+\]|\[\*\])*")


def findings(machine: Machine) -> list[Finding]:
    """Every defect, in the order of the machine."""
    found = [*_tokens(machine)]

    def once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        names = [name for name, _ in pairs]
        for name in sorted({name for name in names if names.count(name) > 1}):
            found.append(Finding("field", machine.name, f"{name!r} stands twice in one object: one of them is lost"))
        return dict(pairs)

    plain = json.loads(machine.text, object_pairs_hook=once)
    levels = list(levels_of(plain))
    limit = plain.get("TimeoutSeconds", 0)
    if not isinstance(limit, int) or limit <= 0:
        found.append(Finding("timeout", machine.name, "the machine has no TimeoutSeconds"))
        limit = float("inf")
    for level in levels:
        found += _graph(level)
        for name, state in level.states.items():
            where = f"{level.path}.{name}"
            found += [*_fields(where, state), *_paths(where, state)]
            if state.get("Type") in ("Task", "Map", "Parallel"):
                found += _guards(where, state)
                found += [Finding(rule, where, said) for rule, said in of_state(state)]
            if state.get("Type") == "Task":
                found += _parameters(where, state)
                if state.get("TimeoutSeconds", 0) >= limit:
                    found.append(
                        Finding("timeout", where, f"its TimeoutSeconds must be less than the machine's {limit}")
                    )
            if "ItemReader" in state:
                found += _parameters(where, state["ItemReader"])
    found += _permissions(machine, levels)
    return found


def levels_of(plain: Json, path: str = "") -> Iterator[Level]:
    level = Level(path or "top", plain.get("StartAt", ""), plain["States"])
    yield level
    for name, state in level.states.items():
        inner = [state["ItemProcessor"]] if "ItemProcessor" in state else state.get("Branches", [])
        for part in inner:
            yield from levels_of(part, f"{level.path}.{name}")


def targets(state: Json) -> Iterator[str]:
    """Every state that a state can go to."""
    for key in ("Next", "Default"):
        if key in state:
            yield state[key]
    for part in (*state.get("Choices", []), *state.get("Catch", [])):
        yield part.get("Next", "")


def _tokens(machine: Machine) -> Iterator[Finding]:
    used, given = set(re.findall(r"\$\{([^}]*)\}", machine.text)), set(machine.substitutions)
    for token in sorted(used - given):
        yield Finding("token", machine.name, f"${{{token}}} is supplied by nobody; there are {sorted(given)}")
    for token in sorted(given - used):
        yield Finding("token", machine.name, f"{token} is supplied and used nowhere")


def _graph(level: Level) -> Iterator[Finding]:
    states = level.states
    if level.start not in states:
        yield Finding("target", level.path, f"StartAt names {level.start!r}, which does not exist")
        return
    reached, todo = set(), [level.start]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        for target in targets(states[name]):
            if target in states:
                todo.append(target)
            else:
                yield Finding("target", f"{level.path}.{name}", f"goes to {target!r}, which does not exist")
    for name in sorted(set(states) - reached):
        yield Finding("unreachable", f"{level.path}.{name}", "no state goes there")
    for name, state in states.items():
        kind, ways = state.get("Type"), [key for key in ("Next", "End", "Default") if key in state]
        if kind in ("Fail", "Succeed"):
            continue
        if len(ways) != 1:
            yield Finding("way", f"{level.path}.{name}", f"needs exactly one of Next, End and Default, has {ways}")
    ends = {n for n, s in states.items() if s.get("End") or s.get("Type") in ("Fail", "Succeed")}
    while more := {n for n, s in states.items() if n not in ends and ends & set(targets(s))}:
        ends |= more
    for name in sorted(reached - ends):
        yield Finding("endless", f"{level.path}.{name}", "no way leads from here to an end")


def _fields(where: str, state: Json) -> Iterator[Finding]:
    kind = state.get("Type")
    if kind not in FIELDS:
        yield Finding("field", where, f"has the type {kind!r}; there are {sorted(FIELDS)}")
        return
    for name in sorted(set(state) - FIELDS[kind]):
        yield Finding("field", where, f"a {kind} knows no field {name!r}")


def _strings(value: Json, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in ("ItemProcessor", "Branches"):
                yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _paths(where: str, state: Json) -> Iterator[Finding]:
    for key, text in _strings(state):
        dynamic = key.endswith(".$")
        if (dynamic or key in ("CausePath", "ErrorPath")) and text.startswith("States."):
            name = text.removeprefix("States.").partition("(")[0]
            if name not in _INTRINSICS:
                yield Finding("path", where, f"{key} calls States.{name}, which this project's machines do not use")
            for path in re.findall(r"\$[\w.$\[\]]*", re.sub(r"'[^']*'", "", text)):
                if not _PATH.fullmatch(path):
                    yield Finding("path", where, f"{key} has the malformed path {path!r}")
        elif dynamic or key.endswith("Path") or key == "Variable":
            if not _PATH.fullmatch(text):
                yield Finding("path", where, f"{key} is {text!r}, which is no path")
        elif text.startswith(("$.", "$$.")):
            yield Finding("path", where, f"{key} is the text {text!r}: write {key}.$ to have the path evaluated")


def _guards(where: str, state: Json) -> Iterator[Finding]:
    task = state["Type"] == "Task"
    if task and not (state.get("TimeoutSeconds", 0) > 0 or "TimeoutSecondsPath" in state):
        yield Finding("timeout", where, "has no TimeoutSeconds: a lost answer would hang it for a year")
    if task:
        yield from _heartbeat(where, state)
    resource = state.get("Resource", "")
    if resource.endswith(".waitForTaskToken") and "$$.Task.Token" not in json.dumps(state.get("Parameters", {})):
        yield Finding("token", where, "waits for a task token that it gives to nobody")


def _heartbeat(where: str, state: Json) -> Iterator[Finding]:
    """Step Functions hears heartbeats of activities and of who holds a task token; elsewhere the field does nothing.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-wait-token
    """
    resource, beat = state.get("Resource", ""), state.get("HeartbeatSeconds", 0)
    if "HeartbeatSeconds" not in state and "HeartbeatSecondsPath" not in state:
        return
    if not resource.endswith(".waitForTaskToken") and ":activity:" not in resource:
        yield Finding("heartbeat", where, "has a heartbeat that nobody can send: only TimeoutSeconds ends this task")
    if "TimeoutSeconds" in state and beat >= state["TimeoutSeconds"]:
        yield Finding("heartbeat", where, "its HeartbeatSeconds must be less than its TimeoutSeconds")


# ── Parameters, against botocore's shapes ────────────────────────────────────────────────────────


@cache
def _service(name: str) -> Any:
    return botocore.session.get_session().get_service_model(_SERVICES.get(name, name))


def _operation(resource: str) -> Any:
    """botocore's model of what a resource calls; None for handlers. Raises ValueError where there is no such call."""
    if resource.startswith("${"):
        return None
    match = _RESOURCE.fullmatch(resource)
    if match is None:
        raise ValueError(f"{resource!r} is no integration")
    service, action = match[2], match[3][0].upper() + match[3][1:]
    try:
        return _service(service).operation_model(action)
    except Exception as error:
        raise ValueError(f"{resource!r} calls {service}:{action}, which does not exist") from error


def _parameters(where: str, task: Json) -> Iterator[Finding]:
    resource = task.get("Resource", "")
    try:
        operation = _operation(resource)
    except ValueError as error:
        yield Finding("resource", where, str(error))
        return
    if operation is None:
        return
    for problem in _misfits(operation.input_shape, task.get("Parameters", {}), operation.name):
        yield Finding("parameters", where, problem)
    # What .sync and tokens answer is another shape than the call's own.
    if resource.startswith("arn:aws:states:::aws-sdk:") and not resource.endswith(".waitForTaskToken"):
        for key, path in task.get("ResultSelector", {}).items():
            first = re.match(r"\$\.(\w+)", path) if key.endswith(".$") else None
            if first and _member(operation.output_shape, first[1]) is None:
                yield Finding("parameters", where, f"ResultSelector reads {path}, which {operation.name} does not give")


def _member(shape: Any, name: str) -> Any:
    """Step Functions writes every parameter with a capital; some services' own names have none."""
    return shape.members.get(name) or shape.members.get(name[0].lower() + name[1:])


_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "long": (int,), "boolean": (bool,), "float": (int, float),
    "double": (int, float),
}  # fmt: skip


def _misfits(shape: Any, value: Json, path: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            yield f"{path} must be an object"
            return
        names = {key.removesuffix(".$") for key in value}
        for key, item in value.items():
            name = key.removesuffix(".$")
            member = _member(shape, name)
            if member is None:
                yield f"{path}.{name} does not exist"
            elif not key.endswith(".$"):
                yield from _misfits(member, item, f"{path}.{name}")
        for required in shape.required_members:
            if required not in names and required[0].upper() + required[1:] not in names:
                yield f"{path}.{required} is missing"
    elif kind == "list":
        if not isinstance(value, list):
            yield f"{path} must be a list"
        else:
            for index, item in enumerate(value):
                yield from _misfits(shape.member, item, f"{path}[{index}]")
    elif kind == "map":
        for key, item in value.items() if isinstance(value, dict) else ():
            if not key.endswith(".$"):
                yield from _misfits(shape.value, item, f"{path}.{key}")
    elif kind in _SCALARS and not _JSON_TEXT.search(path):
        if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind != "boolean"):
            yield f"{path} is {value!r}, and must be {kind}"
        elif (choices := getattr(shape, "enum", None)) and value not in choices and "${" not in str(value):
            yield f"{path} is {value!r}; there are {choices}"


_JSON_TEXT = re.compile(r"StartExecution\.(Input)$")
"""Where the integration takes an object for what the API takes as text."""


# ── Permissions ──────────────────────────────────────────────────────────────────────────────────


def needs(machine: Machine, levels: list[Level] | None = None) -> list[Need]:
    """What the machine's states make its role do. https://docs.aws.amazon.com/step-functions/latest/dg/
    service-integration-iam-templates.html"""
    levels = levels or list(levels_of(json.loads(machine.text)))
    found: list[Need] = []
    for level in levels:
        for name, state in level.states.items():
            where = f"{level.path}.{name}"
            if state.get("Type") == "Task":
                found += _task_needs(machine, where, state, level)
            if (state.get("ItemProcessor", {}).get("ProcessorConfig") or {}).get("Mode") == "DISTRIBUTED":
                actions = ("states:StartExecution", "states:DescribeExecution", "states:StopExecution")
                found += [Need(action, None, where) for action in actions]
            if "ItemReader" in state:
                found += [Need("s3:GetObject", None, where), Need("kms:Decrypt", None, where)]
    return found


def _task_needs(machine: Machine, where: str, state: Json, level: Level) -> Iterator[Need]:
    resource = state.get("Resource", "")
    parameters = state.get("Parameters", {})

    def value(text: str) -> str | None:
        token = re.fullmatch(r"\$\{(\w+)\}", text)
        return None if token is None else json.dumps(machine.substitutions.get(token[1]), sort_keys=True)

    if resource.startswith("${"):
        yield Need("lambda:InvokeFunction", value(resource), where)
        return
    match = _RESOURCE.fullmatch(resource)
    if match is None:
        return
    service, action, mode = match[2], match[3][0].upper() + match[3][1:], match[4] or ""
    if (service, action) == ("lambda", "Invoke"):
        yield Need("lambda:InvokeFunction", value(parameters.get("FunctionName", "")), where)
        return
    if (service, action) == ("states", "StartExecution"):
        started = value(parameters.get("StateMachineArn", ""))
        for alias, of in machine.aliases.items():
            started = json.dumps(of, sort_keys=True) if started == json.dumps({"Ref": alias}) else started
        yield Need("states:StartExecution", started, where)
        if mode.startswith(".sync"):
            extra = ("states:DescribeExecution", "states:StopExecution", *_MANAGED_RULE)
            yield from (Need(name, None, where) for name in extra)
        return
    yield Need(f"{service}:{action}", None, where)
    if (service, action) == ("sagemaker", "CreateTrainingJob"):
        path = parameters.get("RoleArn.$")
        # Which role is chosen on the way: any that a Pass puts where the task reads it.
        given = [parameters.get("RoleArn", "")] if path is None else _put_at(path, level)
        yield from (Need("iam:PassRole", value(token), where) for token in given)
        yield from (Need(name, None, where) for name in _SAGEMAKER_VOLUMES)
        if "Tags" in parameters or "Tags.$" in parameters:
            yield Need("sagemaker:AddTags", None, where)
        if mode.startswith(".sync"):
            extra = ("sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob", *_MANAGED_RULE)
            yield from (Need(name, None, where) for name in extra)


def _put_at(path: str, level: Level) -> list[str]:
    """What the Pass states of a level put at a path."""
    passes = [state for state in level.states.values() if state["Type"] == "Pass" and "Result" in state]
    return [state["Result"] for state in passes if state.get("ResultPath") == path]


def listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def _permissions(machine: Machine, levels: list[Level]) -> Iterator[Finding]:
    granted: dict[str, set[str]] = {}
    for statement in machine.statements:
        for action in listed(statement["Action"]):
            resources = {json.dumps(resource, sort_keys=True) for resource in listed(statement["Resource"])}
            granted.setdefault(action, set()).update(resources)
    wanted = needs(machine, levels)
    for need in wanted:
        if need.action not in granted:
            yield Finding("permission", need.where, f"needs {need.action}, which the role of {machine.name} lacks")
        elif need.resource is not None and need.resource not in granted[need.action]:
            yield Finding("permission", need.where, f"needs {need.action} on {need.resource}, which the role lacks")
    for action in sorted(set(granted) - BASE - {need.action for need in wanted}):
        yield Finding("too much", machine.name, f"its role may {action}, which none of its states needs")
    for action in ("lambda:InvokeFunction", "iam:PassRole"):
        named = {need.resource for need in wanted if need.action == action}
        for resource in sorted(granted.get(action, set()) - named):
            yield Finding(
                "too much", machine.name, f"its role may {action} on {resource}, which none of its states does"
            )
