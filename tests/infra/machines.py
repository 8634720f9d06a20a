"""The committed machines and the committed template, read without CDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stepforge.assets import folder
from stepforge.contracts.names import MACHINES
from stepforge.local.deploy import TEMPLATE

TEXTS = {name: (folder("statemachines") / f"{name}.asl.json").read_text() for name in MACHINES}
ASL: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in TEXTS.items()}
LOCAL: dict[str, Any] = json.loads(TEMPLATE.read_text())

STATES = [(machine, name) for machine, asl in ASL.items() for name in asl["States"]]
TASKS = [(machine, name) for machine, name in STATES if ASL[machine]["States"][name]["Type"] == "Task"]


def state(machine: str, name: str) -> dict[str, Any]:
    return ASL[machine]["States"][name]


def targets(plain: dict[str, Any]) -> Iterator[str]:
    """Every state that a state can go to."""
    for key in ("Next", "Default"):
        if key in plain:
            yield plain[key]
    for part in (*plain.get("Choices", []), *plain.get("Catch", [])):
        yield part["Next"]


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: r["Properties"] for name, r in template["Resources"].items() if r["Type"] == kind}
