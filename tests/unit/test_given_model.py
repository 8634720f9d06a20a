"""What the stages ask of a given model, and of this machine, is checked before anything is uploaded or trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepforge.client import Client
from stepforge.contracts.resources import Resources
from stepforge.contracts.work import EvaluateWork, Lora, RlvrWork, SftWork, SrlWork
from stepforge.errors import InvalidInput
from stepforge.installation import health
from stepforge.installation.health import Part
from stepforge.recipes import load_recipe
from stepforge.submitting.inputs import Inputs, prepare
from stepforge.submitting.models import check_stages
from tests.unit.test_recipes import ENVIRONMENT


class _Connected(Client):
    """To what it is given, instead of to what an environment's name says."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection


PLAIN = SrlWork(asking="plain")
CHAT = SrlWork(name="talk", asking="chat")


def model(folder: Path, *, config: Any = None, tokenizer: Any = None, files: tuple[str, ...] = ()) -> Path:
    (folder / "config.json").write_text(json.dumps(config or {}))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer or {}))
    for name in ("tokenizer.json", "model.safetensors", *files):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("tokenizer", "files"),
    [
        ({"chat_template": "{{ messages }}"}, ()),
        ({}, ("chat_template.jinja",)),
        ({}, ("additional_chat_templates/tools.jinja",)),
    ],
    ids=["in-the-configuration", "in-a-file", "named"],
)
def test_a_chat_needs_a_template(tmp_path: Path, tokenizer: dict[str, str], files: tuple[str, ...]) -> None:
    folder = model(tmp_path)
    check_stages(folder, [PLAIN, SrlWork(), SftWork()], EvaluateWork())
    with pytest.raises(InvalidInput, match=r"stage 'talk' has asking 'chat', but model .* has no chat template"):
        check_stages(folder, [PLAIN, CHAT], EvaluateWork())
    check_stages(model(tmp_path, tokenizer=tokenizer, files=files), [PLAIN, CHAT], EvaluateWork())


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions"])
def test_a_completion_must_fit_the_models_context(tmp_path: Path, key: str) -> None:
    folder, work = model(tmp_path, config={key: 100}), RlvrWork(max_new_tokens=100)
    check_stages(folder, [work], EvaluateWork())
    with pytest.raises(InvalidInput, match=r"max_new_tokens 101 of stage 'rlvr' is over the context .* 100 tokens"):
        check_stages(folder, [SftWork(), RlvrWork(max_new_tokens=101)], EvaluateWork())
    with pytest.raises(InvalidInput, match="max_new_tokens 101 of the evaluation"):
        check_stages(folder, [work], EvaluateWork(max_new_tokens=101))
    check_stages(model(tmp_path), [RlvrWork(max_new_tokens=10**6)], EvaluateWork())


def test_a_recipe_is_refused_with_the_model_that_it_is_given_and_not_for_stages_that_are_left_out(
    tmp_path: Path,
) -> None:
    folder = model(tmp_path, config={"max_position_embeddings": 64})
    with prepare(load_recipe("facial"), model=folder) as inputs:
        assert "model" in inputs.folders
    talking = load_recipe("facial", overrides={"stages.rlvr.asking": "chat"})
    with pytest.raises(InvalidInput, match="stage 'rlvr' has asking 'chat'"), prepare(talking, model=folder):
        pass


@pytest.mark.parametrize(
    ("found", "packages", "said"),
    [
        (Part("gpu", "missing", "no NVIDIA device"), (), r"no CUDA device that torch can use \(no NVIDIA device\)"),
        (Part("gpu", "ok", "driver 570"), (), "no package bitsandbytes"),
        (Part("gpu", "ok", "driver 570"), ("bitsandbytes",), None),
    ],
    ids=["no-gpu", "no-package", "both"],
)
def test_4_bit_adapters_are_refused_where_this_machine_would_train_them_and_cannot(
    monkeypatch: pytest.MonkeyPatch, found: Part, packages: tuple[str, ...], said: str | None
) -> None:
    monkeypatch.setattr(health, "_gpu", lambda _: found)
    monkeypatch.setattr(health, "packages", lambda: dict.fromkeys(packages))
    recipe = load_recipe("facial")
    stages = (*recipe.stages[:-1], recipe.stages[-1].model_copy(update={"lora": Lora(bits=4)}))
    inputs = Inputs(recipe.model_copy(update={"stages": stages}))
    here, elsewhere = (_Connected(SimpleNamespace(name=name, environment=ENVIRONMENT)) for name in ("local", "dev"))
    assert elsewhere.bind(inputs, dry_run=True).stages == stages
    if said is None:
        assert here.bind(inputs, dry_run=True).stages == stages
    else:
        with pytest.raises(InvalidInput, match=f"stage 'rlvr' has lora.bits = 4, .*{said}"):
            here.bind(inputs, dry_run=True)


@pytest.mark.parametrize(
    ("found", "packages", "python", "said"),
    [
        (Part("gpu", "missing", "no NVIDIA device"), ("vllm",), "", r"no CUDA device that torch can use"),
        (Part("gpu", "ok", "driver 570"), (), "", "no package vllm, and STEPFORGE_VLLM_PYTHON names no Python"),
        (Part("gpu", "ok", "driver 570"), ("vllm",), "", None),
        (Part("gpu", "ok", "driver 570"), (), "/opt/vllm/bin/python", None),
    ],
    ids=["no-gpu", "no-package", "package", "environment"],
)
def test_vllm_is_refused_where_this_machine_or_the_instance_cannot_run_it(
    monkeypatch: pytest.MonkeyPatch, found: Part, packages: tuple[str, ...], python: str, said: str | None
) -> None:
    monkeypatch.setattr(health, "_gpu", lambda _: found)
    monkeypatch.setattr(health, "packages", lambda: dict.fromkeys(packages))
    monkeypatch.setenv("STEPFORGE_VLLM_PYTHON", python)
    recipe = load_recipe("facial", overrides={"stages.rlvr.vllm": "{}"})
    here, elsewhere = (_Connected(SimpleNamespace(name=name, environment=ENVIRONMENT)) for name in ("local", "dev"))
    assert elsewhere.bind(Inputs(recipe), dry_run=True).stages == recipe.stages
    if said is None:
        assert here.bind(Inputs(recipe), dry_run=True).stages == recipe.stages
    else:
        with pytest.raises(InvalidInput, match=f"stage 'rlvr' has vllm, .*{said}"):
            here.bind(Inputs(recipe), dry_run=True)
    falling_back = Resources(fallback_instance_types=("ml.m5.large",))
    cheap = recipe.model_copy(update={"resources": {"rlvr": falling_back}})
    with pytest.raises(InvalidInput, match=r"stage 'rlvr' has vllm, which needs a GPU, and ml\.m5\.large has none"):
        elsewhere.bind(Inputs(cheap), dry_run=True)
