"""`stepforge new domain` writes a package that passes its own tests and is found once it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from string import Template

import pytest

from stepforge.cli import main
from stepforge.errors import InvalidInput
from stepforge.scaffold import write_domain

ROOT = Path(__file__).resolve().parents[2]
NAME = "digit_rows"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domain(NAME, tmp_path_factory.mktemp("scaffold"))


def run(*command: str, cwd: Path, path: list[Path] | None = None) -> str:
    """A command's stdout, in a process that knows stepforge and the folders of `path`. Fails where the command does."""
    folders = [ROOT / "sdk", ROOT / "jobs", *(path or [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_its_own_tests(package: Path) -> None:
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    assert " passed" in out
    assert "skipped" not in out


def test_it_is_clean_for_ruff(package: Path) -> None:
    assert "All checks passed" in run("-m", "ruff", "check", "--no-cache", ".", cwd=package)
    assert "already formatted" in run("-m", "ruff", "format", "--check", "--no-cache", ".", cwd=package)


@pytest.mark.slow
def test_it_is_clean_for_mypy(package: Path, tmp_path: Path) -> None:
    mypy = ("-m", "mypy", "--cache-dir", str(tmp_path), "--follow-imports=silent")
    assert "no issues found" in run(*mypy, NAME, cwd=package)


@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling builds the package, and is not installed")
def test_once_installed_its_recipe_and_its_code_are_found(package: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    run(*pip, str(package), cwd=tmp_path)
    script = """
import json, pathlib
from stepforge.recipes import load_recipe, recipe_names
from stepforge.installation.user_code import plugin_for
from stepforge_jobs.domains import load_domain
name = "digit_rows"
staged = plugin_for(name, None, into=pathlib.Path("staged"))
print(json.dumps({
    "names": recipe_names(),
    "stages": [stage.name for stage in load_recipe(name).stages],
    "domain": load_domain(name).name,
    "plugin": staged.plugin.domain,
    "files": sorted(p.relative_to(staged.folder).as_posix() for p in staged.folder.rglob("*.*")),
}))
"""
    found = json.loads(run("-c", script, cwd=tmp_path, path=[site]))
    assert NAME in found["names"]
    assert found["stages"] == ["base", "srl", "rlvr"]
    assert found["domain"] == NAME
    assert found["plugin"] == f"{NAME}.domain:DOMAIN"
    assert found["files"] == [f"{NAME}/__init__.py", f"{NAME}/domain.py", f"{NAME}/recipe.toml"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Digits", "'digits'"),
        ("my-rules", "'my_rules'"),
        ("1st", "a letter first"),
        ("", "2 to 28"),
        ("a" * 29, "2 to 28"),
        ("../up", "cannot be a domain's"),
        ("größe", "cannot be a domain's"),
        ("lambda", "keyword"),
        ("json", "standard library"),
        ("facial", "is a domain already"),
        ("records", "is a domain already"),
        ("pydantic", "installed here"),
        ("stepforge_jobs", "installed here"),
        ("tests", "hide"),
    ],
)
def test_a_name_that_cannot_work_is_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=reason):
        write_domain(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / NAME / "work.py"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(InvalidInput, match="exists already"):
        write_domain(NAME, tmp_path)
    assert [p.name for p in kept.parent.iterdir()] == ["work.py"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_write_that_fails_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail_at_the_third(self: Template, values: dict[str, str]) -> str:
        seen.append(self)
        if len(seen) == 3:
            raise error
        return ""

    monkeypatch.setattr(Template, "substitute", fail_at_the_third)
    with pytest.raises(type(error)):
        write_domain(NAME, tmp_path)
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_folder_and_refuses_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["new", "domain", "tiny_rows", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["folder"] == str(tmp_path / "tiny_rows")
    assert document["next"][0] == f"cd {tmp_path / 'tiny_rows'}"
    assert document["next"][-1] == "stepforge run train --domain tiny_rows"
    assert main(arguments) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "InvalidInput"
