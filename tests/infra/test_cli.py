"""`python -m cdk.cli`: the one place that says which CDK CLI deploys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cdk.cli import ROOT, command

from stepforge.contracts.tools import CDK_CLI


def test_the_cli_is_the_pinned_one_and_runs_our_app_from_anywhere(tmp_path: Path) -> None:
    npx = tmp_path / "npx"
    npx.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n"
        "assert '20' in os.environ['JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION'].split(',')\n"
    )
    npx.chmod(0o755)
    given = {name: value for name, value in os.environ.items() if not name.startswith("JSII_")}
    environment = {**given, "PATH": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    line = [sys.executable, "-m", "cdk.cli", "diff", "--all", "-c", "env=prod"]
    said = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    folder, *arguments = json.loads(said)
    assert folder == str(ROOT)
    assert arguments == ["--yes", CDK_CLI, "--app", f'"{sys.executable}" -m cdk.app', "diff", "--all", "-c", "env=prod"]


def test_an_app_that_is_given_is_not_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert command("deploy", "--app", "cdk.out") == ["/bin/npx", "--yes", CDK_CLI, "deploy", "--app", "cdk.out"]


def test_without_node_it_says_what_to_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    line = [sys.executable, "-m", "cdk.cli", "diff"]
    run = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "`npx` is not found: install Node.js 22 or newer, which brings it\n"


def test_no_page_names_a_version_of_its_own() -> None:
    pages = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *(ROOT / "cdk").glob("*.py")]
    assert [page.name for page in pages if "aws-cdk@" in page.read_text(encoding="utf-8")] == []
