"""A wheel, installed in an empty environment elsewhere, trains: machines, handlers and images travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.homes import ROOT, TINY

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    folder: Path
    command: Path
    wheel: Path

    def run(self, *arguments: str) -> str:
        """stdout of the console script, far from any checkout."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["STEPFORGE_HOME"] = str(self.folder / "home")
        ended = subprocess.run(
            [str(self.command), *arguments],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """An environment of its own; what stepforge needs comes from this one, except stepforge itself."""
    root = tmp_path_factory.mktemp("wheel")
    build = "from hatchling.build import build_wheel; print(build_wheel(__import__('sys').argv[1]))"
    name = subprocess.run(
        [sys.executable, "-c", build, str(root)], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    venv.create(root / "environment", with_pip=False, symlinks=True)
    python = root / "environment" / "bin" / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            str(root / name),
        ],
        check=True,
    )
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = Installed(root, root / "environment" / "bin" / "stepforge", root / name)
    where = subprocess.run(
        [str(python), "-c", "import stepforge, stepforge_jobs; print(stepforge.__file__, stepforge_jobs.__file__)"],
        check=True, capture_output=True, text=True, cwd=root,
    ).stdout.split()  # fmt: skip
    assert all(Path(file).is_relative_to(site) for file in where), where
    yield found
    found.run("local", "down", "--yes")


def test_everything_that_runs_travels_in_the_wheel(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for folder in ("statemachines", "lambdas", "containers"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        wanted = {f"stepforge/_bundle/{name}" for name in files if "__pycache__" not in name}
        assert wanted <= names
    for package in ("sdk/stepforge", "jobs/stepforge_jobs"):
        files = {path.relative_to(ROOT / package).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
        wanted = {f"{Path(package).name}/{name}" for name in files if "__pycache__" not in name}
        assert wanted <= names
    assert not {name for name in names if name.startswith(("tests/", "cdk/"))}


def test_it_plans_trains_and_scaffolds(installed: Installed) -> None:
    plan = json.loads(installed.run("run", "train", "--domain", "facial", "--dry-run", "--json"))
    assert plan["jobs"][0]["status"] == "Absent"
    (installed.folder / "tiny.toml").write_text(TINY.read_text())
    ended = json.loads(installed.run("run", "train", "--domain", "facial", "--recipe", "tiny.toml", "--json"))
    assert ended["status"] == "SUCCEEDED"
    installed.run("report", "latest", "--out", "report.html")
    assert "<style" in (installed.folder / "report.html").read_text()
    installed.run("new", "domain", "castles")
    assert (installed.folder / "castles" / "pyproject.toml").is_file()
