"""Recipes: what a pipeline does, before an environment says where. TOML in, `PipelineSpec` out."""

from __future__ import annotations

import difflib
import tomllib
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from stepforge.contracts.base import Contract
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import (
    ArtifactRef,
    DatasetWork,
    EvaluateWork,
    GateWork,
    LocalModel,
    Plugin,
    Resources,
    RlvrWork,
    ScratchModel,
    SftWork,
    SrlWork,
    TrainingWork,
    WorkType,
)
from stepforge.contracts.names import package_group
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.errors import InvalidInput, UnknownName

_HERE = Path(__file__).parent
ENTRY_POINTS = "stepforge.domains"
RECORDS_RECIPE = _HERE / "records.toml"
"""For the user's own records; no domain of that name exists."""


class Recipe(Contract):
    """A pipeline without addresses and digests.

    >>> [stage.name for stage in load_recipe("facial").stages]
    ['base', 'sft', 'srl', 'rlvr']
    """

    domain: str
    dataset: DatasetWork
    gate: GateWork = GateWork()
    model: ScratchModel = ScratchModel()
    """Ignored where a model is given."""
    stages: Annotated[tuple[TrainingWork, ...], Field(min_length=1)]
    evaluation: EvaluateWork = EvaluateWork()
    resources: dict[WorkType, Resources] = {}

    def pipeline(
        self,
        environment: Environment,
        *,
        model: ArtifactRef | None = None,
        records: ArtifactRef | None = None,
        plugin: Plugin | None = None,
        plugin_code: ArtifactRef | None = None,
    ) -> PipelineSpec:
        """Bind the recipe to an environment. With a `model`, stages that read the corpus are left out."""
        stages = tuple(s for s in self.stages if model is None or not (isinstance(s, SftWork) and s.split == "corpus"))
        return PipelineSpec(
            domain=self.domain,
            dataset=self.dataset,
            records=records,
            gate=self.gate,
            model=self.model if model is None else LocalModel(),
            model_artifact=model,
            stages=stages,
            evaluation=self.evaluation,
            plugin=plugin,
            plugin_artifact=plugin_code,
            code=environment.code,
            image=environment.images["train"],
            resources=self.resources or _default_resources(environment),
            group=package_group(self.domain),
        )


def recipe_names() -> list[str]:
    """Domains that a recipe ships for, and those that installed packages bring."""
    return sorted(
        {
            *(p.stem for p in _HERE.glob("*.toml") if p != RECORDS_RECIPE),
            *(p.name for p in entry_points(group=ENTRY_POINTS)),
        }
    )


def load_recipe(domain: str, *, path: Path | None = None, overrides: dict[str, str] | None = None) -> Recipe:
    """The recipe of a domain, or the one at `path`, with `overrides` such as `{"stages.srl.steps": "50"}` applied.

    Raises UnknownName for a domain without recipe, InvalidInput for a file or key that is malformed.
    """
    source = path or _find(domain)
    try:
        plain = tomllib.loads(source.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"recipe {source} cannot be read: {error}") from error
    plain.setdefault("domain", domain)
    dataset = plain.setdefault("dataset", {})
    if isinstance(dataset, dict):
        dataset.setdefault("domain", plain["domain"])
    for key, value in (overrides or {}).items():
        _override(plain, key, value)
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise InvalidInput(f"recipe {source.name}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Every problem of a validation as `field.path: what is wrong`, with the nearest name for an unknown field."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), _field_names(), n=1)
            message = "no such field" + (f"; did you mean {near[0]!r}?" if near else "")
        elif "input" in problem and not isinstance(problem["input"], dict):
            message += f" (given {problem['input']!r})"
        lines.append(f"{where}: {message}" if where else message)
    return "; ".join(lines)


def _find(domain: str) -> Path:
    shipped = _HERE / f"{domain}.toml"
    if shipped.is_file():
        return shipped
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == domain:
            # The folder of the domain's package holds its recipe; importing the domain is the job's business.
            package = point.module.split(".")[0]
            spec = find_spec(package)
            for folder in (spec.submodule_search_locations or []) if spec else []:
                for found in sorted(Path(folder).rglob("recipe.toml")):
                    return found
            raise InvalidInput(
                f"domain {domain!r} of package {package!r} has no recipe.toml: add one beside the domain"
            )
    raise UnknownName("domain", domain, recipe_names())


def _override(plain: dict[str, Any], key: str, value: str) -> None:
    """Set `key` in the parsed TOML; a stage is named by its `name` or type."""
    node: Any = plain
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(node, list):
            found = [item for item in node if part in (item.get("name", item.get("type")),)]
            if not found:
                raise UnknownName("stage", part, [item.get("name", item.get("type")) for item in node])
            node = found[0]
        else:
            node = node.setdefault(part, {})
    if not isinstance(node, dict):
        raise InvalidInput(f"--set {key!r}: {'.'.join(parents)} has no fields")
    try:
        node[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        node[last] = value


def _field_names() -> list[str]:
    models = (Recipe, DatasetWork, GateWork, EvaluateWork, ScratchModel, SftWork, SrlWork, RlvrWork, Resources)
    return sorted({name for model in models for name in model.model_fields})


def _default_resources(environment: Environment) -> dict[WorkType, Resources]:
    instance = environment.instance_types.get("train")
    return {} if instance is None else {work: Resources(instance_type=instance) for work in get_args(WorkType)}
