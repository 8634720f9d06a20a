"""What docs/your-own.md promises: its files are read here as a person would write them, and its commands parsed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from stepforge.cli._app import app
from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge.contracts.records import Record
from stepforge.contracts.work import DatasetWork, GateWork
from stepforge.recipes import RECORDS_RECIPE, load_recipe
from stepforge.submitting.inputs import prepare
from stepforge_jobs.domains.user import RecordsDomain, load_function
from tests.support.job_folders import copy_artifact, job_folder, run_job

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your-own.md").read_text()
FILES = {name: text for _, name, text in re.findall(r"```(\w+) ([\w.]+)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # The page's five records leave their splits to chance; more of them fill every split.
    more = [{"prompt": f"{a} + {b} =", "answer": a + b, "steps": [str(a + b)]} for a in range(30, 40) for b in range(9)]
    with (tmp_path / "records.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in more)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_its_records_and_its_verifier_pass_a_dataset_job_and_the_gate(folder: Path) -> None:
    recipe = load_recipe("records", path=RECORDS_RECIPE)
    with prepare(recipe, data=folder / "records.jsonl", verifier="my_rules:check") as inputs:
        channels = {}
        for kind in ("plugin", "records"):
            staged, manifest = inputs.folders[kind]
            channels[kind] = copy_artifact(staged, folder / "channels" / kind)
            assert write_manifest(channels[kind], kind).sha256 == manifest.sha256
    assert not staged.exists()
    assert [stage.name for stage in inputs.recipe.stages] == ["sft", "srl", "rlvr"]

    def job(name: str, work: DatasetWork | GateWork, **more: Path) -> Path:
        job_folder(folder / name, work, domain="records", code=inputs.plugin, plugin=channels["plugin"], **more)
        return run_job(folder / name)

    data = job("dataset", DatasetWork(domain="records"), records=channels["records"])
    metadata = read_manifest(data).metadata
    assert sum(metadata["counts"].values()) == 95
    assert metadata["counts"]["test_new"] == 1
    # The SDK named the verifier as the job does, or it could not have compared the names of full records.
    assert metadata["verifier"] == f"records@{read_manifest(channels['plugin']).sha256[:12]}"
    gate = json.loads((job("gate", GateWork(), data=data) / "gate.json").read_text())
    assert gate["passed"], gate["findings"]


def test_its_verifier_judges_each_of_its_records(folder: Path) -> None:
    recipe = load_recipe("records", path=RECORDS_RECIPE)
    with prepare(recipe, data=folder / "records.jsonl", verifier="my_rules:check") as inputs:
        assert inputs.plugin is not None
    domain = RecordsDomain("records", load_function("my_rules:check"), version="1")
    rights = ["5", "7 + 5 = 12\n10 + 20 + 12 = 42\n42", "8", "99", "6"]
    for line, right in zip(FILES["records.jsonl"].splitlines(), rights, strict=True):
        plain = json.loads(line)
        answer = None if "answer" not in plain else str(plain["answer"])
        steps = [s if isinstance(s, dict) else {"action": s} for s in plain.get("steps", [])]
        rest = {"id": "r", "domain": "d", "source": "user", "split": "rl", "group": "g", "verifier": "d@1"}
        full = {**rest, **plain, "answer": answer, "steps": steps, "provenance": {"generator": "g@1"}}
        record = Record.model_validate_json(canonical_json(full))
        assert domain.verify(record, right).accepted, line
        assert not domain.verify(record, right + "1").accepted, line


def test_its_recipe_is_a_recipe(folder: Path) -> None:
    recipe = load_recipe("records", path=folder / "my_recipe.toml")
    assert [(stage.type, stage.steps) for stage in recipe.stages] == [("rlvr", 200)]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("stepforge ")])
def test_its_commands_are_commands(command: str) -> None:
    names = shlex.split(command)[1:]
    found = get_command(app)
    while names and hasattr(found, "commands"):
        found = found.commands[names.pop(0)]
    context = found.make_context("stepforge", names)
    assert context.command is found, command
    assert not hasattr(found, "commands"), command
    for item in context.params.get("set_") or []:
        key, _, value = item.partition("=")
        domain = context.params["domain"]
        assert load_recipe(domain or "records", path=None if domain else RECORDS_RECIPE, overrides={key: value})
