"""Recipes: what a pipeline does, before an environment says where. TOML in, `PipelineSpec` out."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from stepforge.contracts.base import Contract, first_problem, no_such_field
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import ArtifactRef, Plugin
from stepforge.contracts.names import package_group, parameter
from stepforge.contracts.pipelines import DATA_WORK, PipelineSpec, splits_of
from stepforge.contracts.records import TEST_SPLITS, Record
from stepforge.contracts.resources import ALONE, Resources, Vpc, check_pinned
from stepforge.contracts.work import (
    DatasetWork,
    Dpo,
    EvaluateWork,
    GateWork,
    KlControl,
    LocalModel,
    Lora,
    Ppo,
    RlvrWork,
    ScratchModel,
    SftWork,
    SrlWork,
    TrainingWork,
    WorkType,
)
from stepforge.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Settings = TypeVar("Settings", bound=BaseModel)
_HERE = Path(__file__).parent
ENTRY_POINTS = "stepforge.domains"
RECORDS_RECIPE = _HERE / "records.toml"
"""For the user's own records; no domain of that name exists."""
_LONGEST_NAME = 28
"""Room for its endpoint, though every second character be an underscore, which counts twice."""


class Recipe(Contract):
    """A pipeline without addresses and digests.

    >>> [stage.name for stage in load_recipe("facial").stages]
    ['base', 'sft', 'srl', 'rlvr']
    """

    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=48)]
    dataset: DatasetWork
    gate: GateWork = GateWork()
    model: ScratchModel = ScratchModel()
    """Ignored where a model is given."""
    stages: Annotated[tuple[TrainingWork, ...], Field(min_length=1)]
    evaluation: EvaluateWork = EvaluateWork()
    resources: dict[WorkType, Resources] = {}
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """The most that one submission may cost by its estimate; no part of what is trained."""
    leave_out_idle: bool = False
    """Whether a stage whose splits have no records is left out; otherwise it is an error."""

    def for_records(self, records: Sequence[Record]) -> Recipe:
        """The recipe for these records of the user's. Raises InvalidInput where they cannot be trained or tested on."""
        counts: dict[str, int] = Counter(record.split for record in records)
        if not any(counts.get(split) for split in ("train", "rl")):
            raise InvalidInput(f"neither 'train' nor 'rl' has records; there are {dict(counts)}: give more groups")
        if not any(counts.get(split) for split in TEST_SPLITS):
            raise InvalidInput(
                f"no test split has records; there are {dict(counts)}: give about 30 groups or more, or set 'split'"
            )
        idle = [stage for stage in self.stages if not any(counts.get(split) for split in splits_of(stage))]
        stages = tuple(stage for stage in self.stages if stage not in idle)
        if idle and (not self.leave_out_idle or not stages):
            splits = " or ".join(map(repr, splits_of(idle[0])))
            raise InvalidInput(
                f"stage {idle[0].name!r} reads split {splits}, which has no records; there are {dict(counts)}: "
                "give records with steps, or leave the stage out of the recipe"
            )
        return self.model_copy(update={"stages": stages})

    def stages_for(self, *, given_model: bool) -> tuple[TrainingWork, ...]:
        """What is run: stages that read the corpus make a base model, and are left out where one is given."""
        return tuple(s for s in self.stages if not (given_model and isinstance(s, SftWork) and s.split == "corpus"))

    def running_on(self, **changes: Any) -> Recipe:
        """The recipe with fields of `Resources` changed for each of its jobs; None leaves one as it is.

        Several hosts are given only to work that they share. Raises InvalidInput naming the field that is wrong.
        """
        return self.model_copy(update={"resources": changed_resources(self.resources, **changes)})

    def pipeline(
        self,
        environment: Environment,
        *,
        model: ArtifactRef | None = None,
        records: ArtifactRef | None = None,
        plugin: Plugin | None = None,
        plugin_code: ArtifactRef | None = None,
    ) -> PipelineSpec:
        """Bind the recipe to an environment. With a `model`, stages that read the corpus are left out.

        Raises InvalidInput where what is left is no pipeline, or the environment's image is not pinned.
        """
        stages = self.stages_for(given_model=model is not None)
        try:
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
                image=pinned_image(environment, "train"),
                data_image=pinned_image(environment, "data") if "data" in environment.images else None,
                resources=bound_resources(self.resources, environment),
                group=package_group(self.domain, environment.name),
            )
        except ValidationError as error:
            raise InvalidInput(f"recipe of {self.domain!r}: {first_problem(error)}") from error


_FIELDS_OF: dict[str, type[BaseModel]] = {
    "dataset": DatasetWork,
    "gate": GateWork,
    "model": ScratchModel,
    "sft": SftWork,
    "srl": SrlWork,
    "rlvr": RlvrWork,
    "lora": Lora,
    "kl": KlControl,
    "ppo": Ppo,
    "dpo": Dpo,
    "evaluation": EvaluateWork,
    "resources": Resources,
    "vpc": Vpc,
}
"""What stands under a name in a recipe; a stage is named by its type."""


def recipe_names() -> list[str]:
    """Domains that a recipe ships for, and those that installed packages bring."""
    return sorted({*_shipped(), *(point.name for point in entry_points(group=ENTRY_POINTS))})


def domain_package(domain: str) -> EntryPoint | None:
    """The entry point of a domain that an installed package brings. None for those that ship, and where there is none.

    Raises InvalidInput where two packages bring a domain of one name.
    """
    if domain in _shipped():
        return None
    found = {point.value: point for point in entry_points(group=ENTRY_POINTS) if point.name == domain}
    if len(found) > 1:
        raise InvalidInput(
            f"domain {domain!r} is brought by {len(found)} packages: {sorted(found)}. Uninstall all but one"
        )
    return next(iter(found.values()), None)


def records_domain(data: Path) -> str:
    """The name under which models of the user's records are registered: that of their file.

    Raises InvalidInput where a domain has it, whose champion such a model would be compared with.
    """
    name = re.sub(r"[\W_]+", lambda run: "_" if set(run[0]) == {"_"} else "-", data.stem, flags=re.ASCII).strip("-_")
    name = name[:_LONGEST_NAME].strip("-_") or RECORDS_RECIPE.stem
    if name in recipe_names():
        raise InvalidInput(
            f"{data.name!r} is named like the domain {name!r}: rename it, or say so with --domain {name}"
        )
    return name


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
    return validated(Recipe, plain, overrides or {}, source=f"recipe {source.name}")


def validated(model: type[Settings], plain: dict[str, Any], overrides: Mapping[str, str], *, source: str) -> Settings:
    """`plain` with `overrides` set in it, as a model. Raises InvalidInput that blames the override, or the `source`."""
    names = _stage_names(plain)
    for key, value in overrides.items():
        _override(plain, key, value)
    try:
        found = model.model_validate(plain)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        said = [_blame(_typed(p["loc"], names), _said(p, model), overrides, source) for p in problems]
        raise InvalidInput("; ".join(dict.fromkeys(said))) from error
    if misread := _numbers_from_booleans(plain, found.model_dump()):
        what = "Input should be a number, not a boolean"
        raise InvalidInput(_blame(_typed(misread, names), what, overrides, source))
    return found


def changed_resources(given: Mapping[WorkType, Resources], **changes: Any) -> dict[WorkType, Resources]:
    """Resources with fields changed for each type of job; None leaves one as it is.

    Several hosts are given only to work that they share. Raises InvalidInput naming the field that is wrong.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    if not wanted:
        return dict(given)
    changed: dict[WorkType, Resources] = {}
    for work in get_args(WorkType):
        fields = {name: v for name, v in wanted.items() if name != "instance_count" or work not in ALONE}
        plain = given.get(work, Resources()).model_dump(exclude_unset=True)
        try:
            changed[work] = Resources.model_validate(plain | fields)
        except ValidationError as error:
            raise InvalidInput(f"resources of {work!r} jobs: {first_problem(error)}") from error
    return changed


def pairs_of(overrides: Sequence[str]) -> dict[str, str]:
    """`key=value` of each `--set`. Raises InvalidInput for one without a value."""
    pairs = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidInput(f"--set {item!r} has no value: write it as stages.srl.steps=50")
        pairs[key] = value
    return pairs


def _stage_names(plain: dict[str, Any]) -> list[str]:
    stages = plain.get("stages")
    return (
        [str(s.get("name", s.get("type"))) for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    )


def _typed(loc: Sequence[str | int], names: Sequence[str]) -> str:
    """Where a problem is, as `--set` names it: a stage by its name instead of by its place and type."""
    parts = list(loc)
    if len(parts) > 1 and parts[0] == "stages" and isinstance(parts[1], int) and parts[1] < len(names):
        parts[1] = names[parts[1]]
        if len(parts) > 2 and parts[2] in _FIELDS_OF:
            del parts[2]
    return ".".join(map(str, parts))


def _said(problem: ErrorDetails, top: type[BaseModel]) -> str:
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        above = [part for part in parents if isinstance(part, str)]
        owner = "resources" if above[:1] == ["resources"] else above[-1] if above else ""
        fields = (_FIELDS_OF.get(owner) if owner else top) or BaseModel
        return no_such_field(str(last), fields.model_fields)
    owner = str(problem["loc"][-1]) if problem["loc"] else ""
    if problem["type"] == "model_type" and owner in _FIELDS_OF:
        some = ", ".join(sorted(_FIELDS_OF[owner].model_fields))
        return f"Input should be a table: {{}} for the defaults, or with fields of {some} (given {problem['input']!r})"
    message = problem["msg"].removeprefix("Value error, ")
    return message if isinstance(problem["input"], dict) else f"{message} (given {problem['input']!r})"


def _blame(where: str, message: str, overrides: Mapping[str, str], source: str) -> str:
    """A problem with what it comes from: the `--set` that the user typed, or else the recipe's file."""
    # The nearest one: a field that was set inside a table that was set too is its own mistake.
    for key, value in sorted(overrides.items(), key=lambda pair: len(pair[0]), reverse=True):
        if where == key or where.startswith(f"{key}.") or key.startswith(f"{where}."):
            inside = f"{where}: " if where != key else ""
            return f"--set {key}={value}: {inside}{message}"
    return f"{source}: {where}: {message}" if where else f"{source}: {message}"


def _shipped() -> list[str]:
    return sorted(path.stem for path in _HERE.glob("*.toml") if path != RECORDS_RECIPE)


def _find(domain: str) -> Path:
    if domain in _shipped():
        return _HERE / f"{domain}.toml"
    point = domain_package(domain)
    if point is None:
        raise UnknownName("domain", domain, recipe_names())
    # Importing the domain is the job's business: its folder is found without.
    package, *inside = point.module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput(
            f"domain {domain!r} is in {point.value!r}, but there is no package {package!r}: install it again"
        )
    for depth in range(len(inside), -1, -1):
        for root in spec.submodule_search_locations:
            beside = Path(root).joinpath(*inside[:depth], "recipe.toml")
            if beside.is_file():
                return beside
    raise InvalidInput(f"domain {domain!r} of package {package!r} has no recipe.toml: add one beside the domain")


def _override(plain: dict[str, Any], key: str, value: str) -> None:
    """Set `key` in the parsed TOML; a stage is named by its `name` or type."""
    node: Any = plain
    *parents, last = key.split(".")
    for number, part in enumerate(parents):
        if isinstance(node, list):
            stages = {item.get("name", item.get("type")): item for item in node if isinstance(item, dict)}
            if part not in stages:
                raise UnknownName("stage", part, [str(name) for name in stages])
            node = stages[part]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise _no_fields(key, value, parents[:number])
    if not isinstance(node, dict):
        raise _no_fields(key, value, parents)
    try:
        node[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        node[last] = value


def _no_fields(key: str, value: str, parents: Sequence[str]) -> InvalidInput:
    where = ".".join(parents)
    return InvalidInput(f"--set {key}={value}: {where} has no fields of its own: write it as stages.srl.steps=50")


def _numbers_from_booleans(given: Any, read: Any) -> tuple[str | int, ...]:
    """Path of the first boolean that was read as a number, as pydantic does it; empty where there is none."""
    pairs = given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ()
    for key, value in pairs:
        if isinstance(value, bool) and not isinstance(read[key], bool):
            return (key,)
        if deeper := _numbers_from_booleans(value, read[key]):
            return (key, *deeper)
    return ()


def pinned_image(environment: Environment, image: str) -> str:
    """An environment's image by its name. Raises InvalidInput where its address is not pinned to a digest."""
    try:
        return check_pinned(environment.images[image])
    except ValueError as error:
        name = parameter(environment.name, f"images/{image}")
        raise InvalidInput(f"the parameter {name} of environment {environment.name!r}: {error}") from error


def job_image(environment: Environment, work: WorkType) -> str:
    """The pinned image that a type of job runs in. Raises InvalidInput where it is not pinned."""
    return pinned_image(environment, "data" if work in DATA_WORK and "data" in environment.images else "train")


def bound_resources(given: Mapping[WorkType, Resources], environment: Environment) -> dict[WorkType, Resources]:
    """What each type of job runs on: what was given, and the environment's instance type and network where none was.

    Raises UnknownName for a given instance type that SageMaker does not train on, be it the first or a fall-back, and
    InvalidInput where a fall-back is the environment's own.
    """
    wanted = {one.instance_type for one in given.values() if "instance_type" in one.model_fields_set}
    chosen = wanted.union(*(one.fallback_instance_types for one in given.values()))
    if chosen:
        from stepforge.submitting.instances import check_known

        for name in sorted(chosen):
            check_known(name)
    instance = environment.instance_types.get("train")
    default: dict[str, Any] = {} if instance is None else {"instance_type": instance}
    if environment.network:
        subnets, groups = (environment.network[name].split(",") for name in ("subnets", "security-groups"))
        default["vpc"] = {"subnets": subnets, "security_groups": groups}
    bound: dict[WorkType, Resources] = {}
    for work in get_args(WorkType):
        plain = given.get(work, Resources()).model_dump(exclude_unset=True)
        try:
            bound[work] = Resources.model_validate(default | plain)
        except ValidationError as error:
            raise InvalidInput(f"resources of {work!r} jobs: {first_problem(error)}") from error
    return bound
