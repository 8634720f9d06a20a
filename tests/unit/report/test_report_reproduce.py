"""The command of a report makes the same pipeline; a missing price never becomes zero."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.cloud import pipeline

from stepforge.contracts.jobs import ArtifactRef, Plugin
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.work import LocalModel, Lora, RlvrWork
from stepforge.recipes import RECORDS_RECIPE, load_recipe
from stepforge.report.cost import cost_of
from stepforge.report.data import AttemptView
from stepforge.report.reproduce import reproduction

MODEL = ArtifactRef(uri="s3://bucket/raw/model/", sha256="1" * 64)


def remade(spec: PipelineSpec, folder: Path) -> PipelineSpec:
    """What the command would submit, as `stepforge run train` reads it."""
    command, toml = reproduction(spec, "local")
    arguments = shlex.split(command)
    overrides = dict(a.split("=", 1) for flag, a in pairwise(arguments) if flag == "--set")
    path = None
    if toml is not None:
        path = folder / "recipe.toml"
        path.write_text(toml)
    elif spec.records is not None:
        path = RECORDS_RECIPE
    recipe = load_recipe(spec.domain, path=path, overrides=overrides)
    stages = [s for s in recipe.stages if spec.model_artifact is None or getattr(s, "split", "") != "corpus"]
    update = {"dataset": recipe.dataset, "gate": recipe.gate, "stages": tuple(stages), "evaluation": recipe.evaluation}
    return spec.model_copy(update=update | ({} if spec.model_artifact else {"model": recipe.model}))


def changed(index: int, **update: Any) -> tuple[Any, ...]:
    stages = list(pipeline().stages)
    stages[index] = stages[index].model_copy(update=update)
    return tuple(stages)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ""),
        (
            {"stages": changed(3, steps=250, reward="partial")},
            " --set stages.rlvr.steps=250 --set 'stages.rlvr.reward=\"partial\"'",
        ),
        ({"model": LocalModel(), "model_artifact": MODEL, "stages": pipeline().stages[1:]}, " --model ./model"),
        ({"stages": pipeline().stages[:2]}, " --recipe recipe.toml"),
        ({"stages": changed(2, name="other")}, " --recipe recipe.toml"),
        ({"stages": (*pipeline().stages[:2], RlvrWork(name="srl"), pipeline().stages[3])}, " --recipe recipe.toml"),
        ({"domain": "unheard-of"}, " --recipe recipe.toml"),
    ],
    ids=["vetted", "overrides", "own-model", "fewer-stages", "another-name", "another-type", "unknown-domain"],
)  # fmt: skip
def test_the_command_makes_the_same_pipeline(changes: dict[str, Any], options: str, tmp_path: Path) -> None:
    spec = pipeline(**changes)
    assert reproduction(spec, "local")[0] == f"stepforge run train --domain {spec.domain}{options}"
    assert remade(spec, tmp_path).identity == spec.identity


def test_adapters_survive_the_command(tmp_path: Path) -> None:
    spec = pipeline(stages=changed(2, lora=Lora(r=4)))
    assert remade(spec, tmp_path).identity == spec.identity


def test_own_records_name_the_verifier_and_the_files() -> None:
    recipe = load_recipe("mine", path=RECORDS_RECIPE)
    spec = pipeline(
        domain="mine", dataset=recipe.dataset, stages=recipe.stages, evaluation=recipe.evaluation, records=MODEL,
        plugin=Plugin(verifier="rules:check"), plugin_artifact=MODEL, model=LocalModel(), model_artifact=MODEL,
    )  # fmt: skip
    assert reproduction(spec, "dev") == (
        "stepforge run train --domain mine --data records.jsonl --verifier rules:check --model ./model --env dev",
        None,
    )


def attempt(instance: str = "ml.a", seconds: int | None = 1800, count: int = 1) -> AttemptView:
    return AttemptView(
        name="j", arn="a", status="Completed", instance_type=instance, billable_seconds=seconds, instance_count=count
    )


def test_cost_is_billable_seconds_times_instances_times_price() -> None:
    found = cost_of((attempt(), attempt(count=3)), {"ml.a": 2.0})
    assert (found.usd, found.seconds, found.known) == (4.0, 7200, True)


@pytest.mark.parametrize(
    ("attempts", "prices"),
    [((attempt(),), None), ((attempt("ml.b"),), {"ml.a": 2.0}), ((attempt(seconds=None),), {"ml.a": 2.0})],
    ids=["no-prices", "other-instance", "no-time"],
)
def test_what_is_not_known_is_never_free(attempts: tuple[AttemptView, ...], prices: dict[str, float] | None) -> None:
    found = cost_of(attempts, prices)
    assert found.nothing_known
    assert not found.known


def test_a_free_instance_is_known_to_be_free() -> None:
    assert cost_of((attempt(),), {"ml.a": 0.0}).known
