"""Recipes: where they are found, what --set may change, and messages for what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import stepforge.recipes
from stepforge.cli import main
from stepforge.contracts.environment import Environment
from stepforge.contracts.names import MACHINES
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import InvalidInput, UnknownName
from stepforge.installation.user_code import plugin_for
from stepforge.recipes import RECORDS_RECIPE, domain_package, load_recipe, recipe_names, records_domain

RECIPE = '[[stages]]\ntype = "sft"\nsteps = {steps}\n'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a distribution with entry points of domains, as an installer would, on sys.path."""

    def make(distribution: str, domains: dict[str, str], files: dict[str, str]) -> Path:
        site = tmp_path / distribution
        lines = "\n".join(f"{name} = {target}" for name, target in domains.items())
        info = f"{distribution}-1.dist-info"
        written = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n",
            f"{info}/entry_points.txt": f"[stepforge.domains]\n{lines}\n",
        }
        for name, text in written.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
        monkeypatch.syspath_prepend(str(site))
        return site

    return make


def test_each_domain_of_a_package_has_the_recipe_beside_it(install) -> None:
    files = {
        "two_domains/__init__.py": "raise RuntimeError('imported')",
        "two_domains/recipe.toml": RECIPE.format(steps=1),
        "two_domains/rows/__init__.py": "",
        "two_domains/rows/domain.py": "DOMAIN = 1\n",
        "two_domains/rows/recipe.toml": RECIPE.format(steps=2),
        "two_domains/aaa/recipe.toml": RECIPE.format(steps=3),
    }
    install("two", {"rows_x": "two_domains.rows.domain:DOMAIN", "rest_x": "two_domains.rest:DOMAIN"}, files)
    assert {"rows_x", "rest_x"} <= set(recipe_names())
    assert load_recipe("rows_x").stages[0].steps == 2
    assert load_recipe("rest_x").stages[0].steps == 1


def test_a_package_without_a_recipe_or_without_a_folder_says_so(install) -> None:
    install("none", {"bare_x": "bare_domain:DOMAIN", "gone_x": "gone_domain:DOMAIN"}, {"bare_domain/__init__.py": ""})
    with pytest.raises(InvalidInput, match=r"has no recipe\.toml"):
        load_recipe("bare_x")
    with pytest.raises(InvalidInput, match="no package 'gone_domain'"):
        load_recipe("gone_x")


def test_a_package_cannot_take_the_name_of_a_domain_that_ships(install, tmp_path: Path) -> None:
    install("thief", {"facial": "thief_domain:DOMAIN"}, {"thief_domain/__init__.py": "DOMAIN = 1\n"})
    assert domain_package("facial") is None
    assert plugin_for("facial", None, into=tmp_path / "s") is None
    assert load_recipe("facial").domain == "facial"


def test_two_packages_with_one_domain_are_refused(install) -> None:
    for name in ("left", "right"):
        install(name, {"both_x": f"{name}_domain:DOMAIN"}, {f"{name}_domain/__init__.py": ""})
    with pytest.raises(InvalidInput, match="brought by 2 packages"):
        load_recipe("both_x")


@pytest.mark.parametrize("name", ["facal", "records", "../recipes/facial", ""])
def test_a_name_without_a_recipe_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName):
        load_recipe(name)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("stages.srl.stepz", "5", "did you mean 'steps'"),
        ("stages.slr.steps", "5", "did you mean 'srl'"),
        ("stages.srl.steps.deep", "5", "has no fields"),
        ("dataset.corpus.a.b", "5", "has no fields"),
        ("stages", "3", "stages"),
        ("dataset", "3", "dataset"),
        ("stages.srl.steps", "-1", "greater than 0"),
        ("domain", "a b", "pattern"),
    ],
)
def test_an_override_that_cannot_work_says_why(key: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidInput if "slr" not in key else UnknownName, match=reason):
        load_recipe("facial", overrides={key: value})


def test_overrides_reach_stages_by_name_and_dataset_by_field() -> None:
    recipe = load_recipe("facial", overrides={"stages.base.steps": "7", "dataset.test": "9", "stages.srl.lora.r": "4"})
    assert (recipe.stages[0].steps, recipe.dataset.test) == (7, 9)
    assert next(s for s in recipe.stages if s.name == "srl").lora.r == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_can_be_read(name: str) -> None:
    assert load_recipe(name).domain == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sums.jsonl", "sums"),
        ("my data (1).jsonl", "my-data-1"),
        ("данные.jsonl", "records"),
        ("records.jsonl", "records"),
    ],
)
def test_models_of_a_file_are_registered_under_its_name(file: str, name: str) -> None:
    assert records_domain(Path(file)) == name
    assert load_recipe(name, path=RECORDS_RECIPE).domain == name


def test_a_file_that_is_named_like_a_domain_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--domain facial"):
        records_domain(Path("facial.jsonl"))


def test_a_mistake_in_a_recipe_names_its_file_and_the_stage_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[dataset]\n[[stages]]\ntype = "sft"\nname = "base"\nstepz = 3\n[evaluation]\nsamples = "many"\n')
    with pytest.raises(
        InvalidInput, match=r"^recipe mine.toml: stages.base.stepz: no such field; .*'steps'.*; recipe "
    ):
        load_recipe("facial", path=path)
    path.write_text('[dataset]\n[[stages]]\ntype = "sft"\nname = "base"\nsteps = true\n')
    with pytest.raises(InvalidInput, match=r"^recipe mine.toml: stages.base.steps: .*not a boolean"):
        load_recipe("facial", path=path)


def test_what_was_set_is_blamed_only_where_it_is_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[dataset]\ntest = "x"\n[[stages]]\ntype = "sft"\n')
    with pytest.raises(InvalidInput) as refused:
        load_recipe("facial", path=path, overrides={"stages.sft.type": "stf", "dataset.train": "3"})
    assert "recipe mine.toml: dataset.test: " in str(refused.value)
    assert "--set stages.sft.type=stf: stages.sft: Input tag 'stf'" in str(refused.value)
    assert "dataset.train" not in str(refused.value)


def test_a_field_inside_a_table_that_was_set_too_is_blamed_itself() -> None:
    given = {"stages.rlvr.kl": "{}", "stages.rlvr.kl.capp": "0.1"}
    with pytest.raises(InvalidInput, match=r"^--set stages\.rlvr\.kl\.capp=0\.1: no such field; did you mean 'cap'"):
        load_recipe("facial", overrides=given)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("key", ["stages.srl.learning_rate", "stages.srl.temperature", "stages.rlvr.spread_above"])
def test_a_setting_is_a_finite_number(key: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"^--set {key}={value}: Input should be"):
        load_recipe("facial", overrides={key: value})


def test_a_domain_beside_a_recipe_of_another_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((Path(stepforge.recipes.__file__).parent / "facial.toml").read_text())
    for more, said in (
        (["--recipe", str(path)], f"--domain 'other' contradicts recipe '{path}', which says 'facial'"),
        (["--set", "domain=own"], "--domain 'facial' contradicts --set domain=own, which says 'own'"),
    ):
        domain = "other" if "--recipe" in more else "facial"
        assert main(["run", "train", "--dry-run", "--domain", domain, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stages.rlvr.kl", "true", "Input should be a table: {} for the defaults, or with fields of aim, beta_max"),
        ("stages.rlvr.kl.targets", "0.1", "no such field.* There are: aim, beta_max"),
        ("stages.rlvr.ppo.lambda", "0.9", "did you mean 'lam'"),
        ("stages.srl.sampling_rounds", "2", "sampling_rounds 2 changes nothing where dynamic_sampling is off"),
    ],
)
def test_a_table_of_settings_is_asked_for_by_its_fields(key: str, value: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^--set {key}={value}: .*{said}"):
        load_recipe("facial", overrides={key: value})


def test_the_stages_that_the_documentation_shows_can_be_trained(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy-gradients.md").read_text()
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    for number, stages in enumerate(shown):
        path = tmp_path / f"{number}.toml"
        path.write_text(stages)
        assert load_recipe("facial", path=path).stages


ENVIRONMENT = Environment(
    name="test",
    bucket="stepforge-test",
    key_arn="arn:aws:kms:us-east-1:123456789012:key/0",
    training_role_arn="arn:aws:iam::123456789012:role/t",
    serving_role_arn="arn:aws:iam::123456789012:role/s",
    machines={name: f"arn:aws:states:us-east-1:123456789012:stateMachine:{name}" for name in MACHINES},
    images={"train": "i@sha256:" + "0" * 64, "serve": "i@sha256:" + "0" * 64},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"dataset.test": "0"}, "set dataset.test to 1 or more"),
        ({"dataset.train": "0"}, "stage 'sft' has nothing to read where dataset.train is 0"),
        ({"dataset.corpus": "0"}, "stage 'base' has nothing to read where dataset.corpus is 0"),
        ({"stages.rlvr.max_new_tokens": "65"}, "max_new_tokens 65 of 'rlvr' is over model.context 64"),
        ({"evaluation.max_new_tokens": "65"}, "max_new_tokens 65 of 'evaluation' is over model.context 64"),
        ({"model.hidden_size": "62"}, "is no even multiple of heads 4, .* set hidden_size to 64"),
        ({"model.heads": "64"}, "hidden_size 64 is no even multiple of heads 64"),
        ({"stages.srl.asking": "think"}, "stage 'srl' has asking 'think', .* set asking = 'plain' in this stage"),
        ({"stages.rlvr.asking": "chat"}, "stage 'rlvr' has asking 'chat'"),
        ({"stages.srl.next_title": "true"}, "stage 'srl' has next_title, .* leave next_title out, or give a model"),
        ({"stages.base.lora": "{bits=4}"}, "stage 'base' has lora.bits 4, but it starts from random weights"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_contradict_each_other_are_refused_with_what_to_do(overrides: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_recipe("facial", overrides=overrides).pipeline(ENVIRONMENT)


def test_problems_to_train_on_may_come_from_demonstrations_alone() -> None:
    assert load_recipe("facial", overrides={"dataset.rl": "0"}).pipeline(ENVIRONMENT).dataset.rl == 0


def environment(**more: dict[str, str]) -> Environment:
    image = "repository/stepforge-train@sha256:" + "0" * 64
    return Environment(
        name="dev",
        bucket="stepforge-dev",
        key_arn="arn:aws:kms:us-east-1:123456789012:key/0",
        training_role_arn="arn:aws:iam::123456789012:role/training",
        serving_role_arn="arn:aws:iam::123456789012:role/serving",
        machines=dict.fromkeys(MACHINES, "arn"),
        images={"train": image},
        code=dict.fromkeys(WORK_TYPES, "c" * 64),
        **more,
    )


@pytest.mark.parametrize("first", [{}, {"resources.rlvr.instance_type": "ml.g5.xlarge"}], ids=["default", "given"])
def test_a_fall_back_that_is_no_instance_type_is_refused(first: dict[str, str]) -> None:
    given = first | {"resources.rlvr.fallback_instance_types": '["ml.g6.xlarge", "ml.zz.large"]'}
    with pytest.raises(UnknownName, match=r"instance type 'ml\.zz\.large'"):
        load_recipe("facial", overrides=given).pipeline(environment())


def test_a_fall_back_that_is_the_environments_own_type_is_refused_with_what_to_do() -> None:
    recipe = load_recipe("facial", overrides={"resources.rlvr.fallback_instance_types": '["ml.m5.large"]'})
    with pytest.raises(InvalidInput, match=r"'rlvr' jobs.*name each once"):
        recipe.pipeline(environment(instance_types={"train": "ml.m5.large"}))
