"""The command that makes a run's pipeline again: a shipped recipe with what differs from it, or a recipe of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.work import ScratchModel
from stepforge.errors import UserError
from stepforge.recipes import RECORDS_RECIPE, Recipe, load_recipe

RECIPE_FILE = "recipe.toml"
PARTS = {"domain", "dataset", "gate", "stages", "evaluation"}
"""What a recipe and its pipeline have in common, the model apart."""
MOST_OVERRIDES = 12
"""More `--set` than this are easier to read as a recipe."""


def reproduction(spec: PipelineSpec, environment: str) -> tuple[str, str | None]:
    """The command, and the TOML to save as recipe.toml where the command names that file."""
    arguments = ["stepforge", "run", "train", "--domain", spec.domain]
    recipe = None
    overrides = _overrides(spec)
    if overrides is None:
        arguments += ["--recipe", RECIPE_FILE]
        recipe = to_toml(_plain(spec))
    else:
        for key, value in overrides.items():
            arguments += ["--set", f"{key}={value}"]
    if spec.records is not None:
        arguments += ["--data", "records.jsonl"]
    if spec.plugin is not None and spec.plugin.verifier is not None:
        arguments += ["--verifier", spec.plugin.verifier]
    if spec.model_artifact is not None:
        arguments += ["--model", "./model"]
    if environment != "local":
        arguments += ["--env", environment]
    return shlex.join(arguments), recipe


def _plain(spec: PipelineSpec) -> dict[str, Any]:
    """The pipeline's recipe: what it does, without addresses and digests."""
    plain = spec.model_dump(mode="json", include=PARTS)
    if isinstance(spec.model, ScratchModel):
        plain["model"] = spec.model.model_dump(mode="json")
    return plain


def _overrides(spec: PipelineSpec) -> dict[str, str] | None:
    """`--set` keys and values that turn the shipped recipe into this one; None where that cannot be done."""
    path = RECORDS_RECIPE if spec.records is not None else None
    try:
        shipped = load_recipe(spec.domain, path=path)
    except UserError:
        return None  # a domain without a recipe here: the page carries the recipe itself
    found, wanted = _kept(shipped, spec), _plain(spec)
    if [s["name"] for s in found["stages"]] != [s["name"] for s in wanted["stages"]]:
        return None
    had = dict(_leaves(found))
    changed = {key: value for key, value in _leaves(wanted) if key not in had or had[key] != value}
    if len(changed) > MOST_OVERRIDES or any(value is None for value in changed.values()):
        return None
    overrides = {key: _toml_value(value) for key, value in changed.items()}
    try:
        remade = load_recipe(spec.domain, path=path, overrides=overrides)
    except UserError:
        return None  # such as another type of stage under the same name
    return overrides if _kept(remade, spec) == wanted else None


def _kept(recipe: Recipe, spec: PipelineSpec) -> dict[str, Any]:
    """What of a recipe is left once it is bound like `spec`: with a model, stages that read the corpus are not."""
    plain = recipe.model_dump(mode="json", include={*PARTS, "model"})
    if spec.model_artifact is not None:
        plain["stages"] = [stage for stage in plain["stages"] if stage.get("split") != "corpus"]
        del plain["model"]
    return plain


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list) and all(isinstance(item, dict) for item in node):
        for item in node:
            yield from _leaves(item, f"{path}.{item['name']}")
    else:
        yield path, node


def to_toml(recipe: dict[str, Any]) -> str:
    """A recipe as TOML; fields that are None are left out, which is what they mean.

    >>> print(to_toml({"domain": "demo", "stages": [{"type": "sft", "lora": {"r": 4}}]}))
    domain = "demo"
    <BLANKLINE>
    [[stages]]
    type = "sft"
    lora = { r = 4 }
    """
    lines = [f"{key} = {_toml_value(value)}" for key, value in recipe.items() if not isinstance(value, (dict, list))]
    for key, value in recipe.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *_fields(value)]
        elif isinstance(value, list):
            for item in value:
                lines += ["", f"[[{key}]]", *_fields(item)]
    return "\n".join(lines)


def _fields(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml_value(value)}" for key, value in table.items() if value is not None]


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return json.dumps(value)
