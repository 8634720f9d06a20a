"""The committed machines and the committed template, read without CDK."""

from __future__ import annotations

import json
from typing import Any

from stepforge.contracts.names import MACHINES
from stepforge.installation.assets import folder
from stepforge.local.deploy import TEMPLATE

from .checker import Machine, levels_of, listed, targets

__all__ = ["ASL", "LOCAL", "STATES", "TASKS", "TEXTS", "committed", "resources", "state", "targets"]

TEXTS = {name: (folder("statemachines") / f"{name}.asl.json").read_text() for name in MACHINES}
ASL: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in TEXTS.items()}
LOCAL: dict[str, Any] = json.loads(TEMPLATE.read_text())

LEVELS = {machine: list(levels_of(asl)) for machine, asl in ASL.items()}
STATES = [(machine, name) for machine, levels in LEVELS.items() for level in levels for name in level.states]


def state(machine: str, name: str) -> dict[str, Any]:
    """A state of a machine, at whatever level."""
    return next(level.states[name] for level in LEVELS[machine] if name in level.states)


TASKS = [(machine, name) for machine, name in STATES if state(machine, name)["Type"] == "Task"]


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: r["Properties"] for name, r in template["Resources"].items() if r["Type"] == kind}


def committed(machine: str, template: dict[str, Any] = LOCAL) -> Machine:
    """A machine with what the template supplies and grants it."""
    definitions = resources(template, "AWS::StepFunctions::StateMachine").values()
    deployed = next(d for d in definitions if d["StateMachineName"].endswith(f"-{machine}"))
    role = deployed["RoleArn"]["Fn::GetAtt"][0]
    policies = [
        policy["PolicyDocument"]
        for policy in resources(template, "AWS::IAM::Policy").values()
        if {"Ref": role} in policy["Roles"]
    ]
    statements = tuple(s for document in policies for s in listed(document["Statement"]) if s["Effect"] == "Allow")
    aliases = resources(template, "AWS::StepFunctions::StateMachineAlias").items()
    of = {logical: properties["StateMachineArn"] for logical, properties in aliases}
    return Machine(machine, TEXTS[machine], deployed["DefinitionSubstitutions"], statements, of)
