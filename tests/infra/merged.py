"""The stacks of an environment as one template: what one imports of another is referred to as if it stood beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = Any


def read_stacks(folder: Path) -> dict[str, Json]:
    """Stack to template, of a folder that a synth wrote."""
    paths = sorted(folder.glob("*.template.json"))
    return {path.name.removesuffix(".template.json"): json.loads(path.read_text()) for path in paths}


def environment(stacks: dict[str, Json], name: str) -> Json:
    """Of the stack `stepforge-{name}` and those that begin with `stepforge-{name}-`."""
    stem = f"stepforge-{name}"
    own = [template for stack, template in stacks.items() if stack == stem or stack.startswith(f"{stem}-")]
    outputs = [output for template in own for output in template.get("Outputs", {}).values()]
    exported = {output["Export"]["Name"]: output["Value"] for output in outputs if "Export" in output}
    found: dict[str, Json] = {}
    for template in own:
        assert not set(found) & set(template["Resources"]), "two stacks have a logical id in common"
        found |= template["Resources"]
    return {**(own[0] if len(own) == 1 else {}), "Resources": _bound(found, exported)}


def _bound(value: Json, exported: dict[str, Json]) -> Json:
    if isinstance(value, list):
        return [_bound(item, exported) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Fn::ImportValue"}:
        return exported[value["Fn::ImportValue"]]
    return {key: _bound(item, exported) for key, item in value.items()}
