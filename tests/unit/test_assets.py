"""Machines and handlers are found in the checkout and in an installed package, and their digest follows their bytes."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import pytest

import stepforge
from stepforge.errors import EnvironmentUnavailable
from stepforge.installation.assets import folder
from stepforge.local import deploy


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder as pip lays it out, of which `stepforge.__file__` says that it is ours."""
    package = tmp_path / "site-packages" / "stepforge"
    package.mkdir(parents=True)
    monkeypatch.setattr(stepforge, "__file__", str(package / "__init__.py"))
    return package


def test_a_checkout_is_used_where_there_is_one() -> None:
    assert (folder("lambdas") / "plan_job.py").is_file()
    assert (folder("statemachines") / "train.asl.json").is_file()


def test_an_installed_package_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed(tmp_path, monkeypatch)
    (package.parent.parent / "lambdas").mkdir()
    with pytest.raises(EnvironmentUnavailable, match="install stepforge again"):
        folder("lambdas")
    (package / "_bundle" / "lambdas").mkdir(parents=True)
    assert folder("lambdas") == package / "_bundle" / "lambdas"


def test_the_handlers_zip_is_the_same_bytes_twice_and_holds_every_handler() -> None:
    first = deploy.handlers_zip("d")
    assert first == deploy.handlers_zip("d") != deploy.handlers_zip("e")
    names = set(zipfile.ZipFile(io.BytesIO(first)).namelist())
    assert names == {path.name for path in folder("lambdas").glob("*.py")} | {"sources.sha256"}


@pytest.mark.parametrize(
    ("path", "matters"),
    [("contracts/jobs.py", True), ("planning.py", True), ("local/deploy.py", False), ("cli/main.py", False)],
)
def test_the_digest_follows_what_handlers_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, matters: bool
) -> None:
    source = Path(stepforge.__file__).parent
    lambdas = folder("lambdas")
    package = installed(tmp_path, monkeypatch)
    shutil.copytree(source, package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(lambdas, package / "_bundle" / "lambdas")
    before = deploy.sources_digest()
    changed = package / path
    changed.parent.mkdir(exist_ok=True)
    changed.write_text("# changed\n")
    assert (deploy.sources_digest() != before) == matters
