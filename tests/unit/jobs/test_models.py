"""Model directories: what is missing is named, adapters are what was asked for, and merging changes no logit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tests.support.small_model import write_small_model
from transformers import AutoTokenizer

from stepforge.contracts.work import Lora
from stepforge.errors import InvalidInput
from stepforge.recipes import load_recipe
from stepforge.submitting.models import check_model_folder
from stepforge_jobs.directories import check_directory
from stepforge_jobs.training import models
from stepforge_jobs.training.distance import as_reference
from stepforge_jobs.training.import_gguf import find_gguf, import_gguf, main
from stepforge_jobs.training.models import above_float32, from_directory, save, with_lora

IDS = torch.tensor([[5, 9, 30, 77, 12]])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_small_model(tmp_path_factory.mktemp("small"))


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named_with_the_path(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for check in (check_model_folder, check_directory):
        with pytest.raises(InvalidInput, match=r"model-00002-of-00002\.safetensors") as refused:
            check(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert "00001" not in str(refused.value).partition("it holds")[0]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InvalidInput, match=r"a readable model\.safetensors\.index\.json"):
        check_directory(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InvalidInput, match=r"token 260, but its weights know 260 tokens, 0 to 259.*resize_token") as no:
        from_directory(folder, step_end=None)
    assert str(folder) in str(no.value)


def test_in_4_bits_each_rank_loads_the_weights_onto_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(models, "find_spec", lambda _: object())
    assert models._in_4_bits()["device_map"] == {"": 3}


def test_the_reference_below_adapters_has_no_dropout_while_the_policy_trains(small: Path) -> None:
    policy = with_lora(from_directory(small, step_end=None), Lora(), seed=0)
    policy.network.train()
    with as_reference(policy):
        assert not any(module.training for module in policy.network.modules())
    assert all(module.training for module in policy.network.modules())


@pytest.mark.parametrize(
    ("key", "near"),
    [("rank_r", None), ("alhpa", "alpha"), ("dropuot", "dropout"), ("bit", "bits")],
)
def test_an_unknown_key_of_the_adapters_gets_the_nearest_name(key: str, near: str | None) -> None:
    with pytest.raises(InvalidInput, match="no such field") as refused:
        load_recipe("facial", overrides={f"stages.srl.lora.{key}": "8"})
    assert near is None or f"did you mean {near!r}?" in str(refused.value)


def test_the_defaults_of_the_adapters_reach_every_linear_layer(small: Path) -> None:
    policy = with_lora(from_directory(small, step_end=None), Lora(), seed=0)
    config = policy.network.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, str(config.task_type)) == (16, 32, 0.05, "CAUSAL_LM")
    names = [name for name, _ in policy.network.named_parameters() if ".lora_A" in name]
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in names}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    trained = [name for name, parameter in policy.network.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_merged_adapters_have_the_same_logits_also_above_weights_that_are_read_again(
    small: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    policy = with_lora(from_directory(small, step_end=None), Lora(r=4, alpha=8), seed=0)
    with torch.no_grad():
        for name, parameter in policy.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    policy.network.eval()
    with torch.no_grad():
        wanted = policy.network(input_ids=IDS).logits
        with policy.network.disable_adapter():
            assert not torch.allclose(policy.network(input_ids=IDS).logits, wanted, atol=1e-3)
        again = above_float32(policy).merge_and_unload().eval()
        assert torch.allclose(again(input_ids=IDS).logits, wanted, atol=1e-5)
        save(policy, tmp_path / "saved")
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
        assert torch.allclose(saved(input_ids=IDS).logits, wanted, atol=1e-5)
    check_model_folder(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("adapter*"))


def test_a_gguf_file_is_found_by_path_folder_or_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "holds_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(InvalidInput, match=r"has 0 \.gguf files \(none\)"):
        find_gguf(str(package))
    file = package / "a.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_gguf("holds_weights") == find_gguf(str(package)) == find_gguf(str(file)) == file
    (package / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidInput, match=r"a\.gguf, b\.gguf"):
        find_gguf("holds_weights")
    with pytest.raises(InvalidInput, match="no file, folder or installed package"):
        find_gguf("no_such_package_at_all")


def test_an_import_never_overwrites_and_a_failed_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF and no more")
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidInput, match="exists already"):
        import_gguf(str(file), tmp_path / "there")
    monkeypatch.setattr("stepforge_jobs.training.import_gguf.find_spec", lambda name: None)
    assert main([str(file), "--out", str(tmp_path / "new")]) == 2
    assert "the package gguf is missing: install it: pip install" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "there"]
