"""Recipes say what a pipeline does; mistakes are named with the field and the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import WORK_TYPES, ArtifactRef, LocalModel
from stepforge.errors import InvalidInput, UnknownName
from stepforge.recipes import RECORDS_RECIPE, load_recipe, recipe_names

ENVIRONMENT = Environment(
    name="local",
    bucket="bucket",
    key_arn="key",
    training_role_arn="role",
    serving_role_arn="role",
    machines={"train": "arn"},
    images={"train": "image@sha256:0", "serve": "image@sha256:0"},
    code=dict.fromkeys(WORK_TYPES, "0" * 64),
)
MODEL = ArtifactRef(uri="s3://bucket/raw/model/", sha256="1" * 64)


@pytest.mark.parametrize("domain", recipe_names())
def test_every_shipped_recipe_binds_to_an_environment(domain: str) -> None:
    spec = load_recipe(domain).pipeline(ENVIRONMENT)
    assert spec.group == f"stepforge-{domain}"


def test_the_recipe_for_own_records_needs_a_model_and_has_no_corpus_stage() -> None:
    spec = load_recipe("mine", path=RECORDS_RECIPE).pipeline(ENVIRONMENT, model=MODEL, records=MODEL)
    assert (spec.domain, spec.model, [s.name for s in spec.stages]) == ("mine", LocalModel(), ["sft", "srl", "rlvr"])


def test_with_a_model_the_stage_that_reads_the_corpus_is_left_out() -> None:
    recipe = load_recipe("facial")
    with_model = [stage.name for stage in recipe.pipeline(ENVIRONMENT, model=MODEL).stages]
    assert with_model == [stage.name for stage in recipe.stages if stage.name != "base"]


def test_an_override_reaches_the_stage_that_it_names() -> None:
    recipe = load_recipe("facial", overrides={"stages.srl.steps": "7", "dataset.seed": "3"})
    assert [s.steps for s in recipe.stages if s.name == "srl"] == [7]
    assert recipe.dataset.seed == 3


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stages.srl.stepz", "5", "did you mean 'steps'"),
        ("stages.srx.steps", "5", "did you mean 'srl'"),
        ("stages.srl.steps", "many", "given 'many'"),
        ("stages.srl.steps", "-1", "greater than 0"),
        ("modle.layers", "1", "did you mean 'model'"),
    ],
)
def test_a_mistaken_override_is_named_with_the_remedy(key: str, value: str, said: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=said):
        load_recipe("facial", overrides={key: value})


def test_an_unknown_domain_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'facial'"):
        load_recipe("facal")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("steps =")
    with pytest.raises(InvalidInput, match=r"recipe\.toml"):
        load_recipe("facial", path=path)


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[[stages]]\ntype = "srl"\n[[stages]]\ntype = "srl"\n')
    with pytest.raises(ValueError, match="different names"):
        load_recipe("facial", path=path).pipeline(ENVIRONMENT)


def test_the_identity_of_a_pipeline_leaves_out_where_it_runs() -> None:
    recipe = load_recipe("facial")
    elsewhere = ENVIRONMENT.model_copy(update={"instance_types": {"train": "ml.p5.48xlarge"}})
    assert recipe.pipeline(ENVIRONMENT).identity == recipe.pipeline(elsewhere).identity


def test_the_identity_of_a_pipeline_changes_with_the_code_that_runs() -> None:
    recipe = load_recipe("facial")
    changed = ENVIRONMENT.model_copy(update={"code": {**ENVIRONMENT.code, "srl": "f" * 64}})
    assert recipe.pipeline(ENVIRONMENT).identity != recipe.pipeline(changed).identity
