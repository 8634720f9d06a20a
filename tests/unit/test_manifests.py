"""What a manifest may name, and that nothing beside what it names is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stepforge.contracts.manifests import FileEntry, Manifest, check_files, write_manifest
from stepforge.errors import IntegrityError, InvalidInput
from stepforge.submitting.models import check_model_folder

SHA = "0" * 64


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../x", "a/../../x", "/etc/x", "manifest.json", "./manifest.json", "a//b", "a/./b", "a/", "a\0b"],
    ids=repr,
)
def test_a_path_that_leads_out_or_has_two_spellings_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        FileEntry(path=path, sha256=SHA, bytes=1)


def test_a_file_that_is_named_twice_is_refused() -> None:
    entry = FileEntry(path="a", sha256=SHA, bytes=1)
    with pytest.raises(ValidationError, match="named twice: \\['a'\\]"):
        Manifest(kind="model", files=(entry, entry.model_copy(update={"bytes": 2})))


@pytest.mark.parametrize("name", ["torch.py", "package/__pycache__/rules.cpython-311.pyc"])
def test_a_file_that_was_added_later_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "rules.py").write_text("X = 1")
    manifest = write_manifest(tmp_path, "plugin")
    check_files(tmp_path, manifest)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("import os")
    with pytest.raises(IntegrityError, match=f"{name} is not in the manifest"):
        check_files(tmp_path, manifest)


@pytest.mark.parametrize("name", ["training_args.bin", "pytorch_model.BIN", "checkpoint-1/optimizer.pt"])
def test_a_pickle_beside_safetensors_is_refused_before_anything_is_uploaded(tmp_path: Path, name: str) -> None:
    for needed in ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / needed).write_bytes(b"{}")
    assert check_model_folder(tmp_path) == tmp_path
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidInput, match=f"has {name}, which can run code"):
        check_model_folder(tmp_path)
