"""Linters that do not live beside the project's own packages: asl-validator (npm) and parliament (an old setuptools).

`python -m tests.infra.linters` installs both at their locked versions into `linters/` of the virtual environment, and
`make setup` does so too; nothing is fetched while tests run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = ("package.json", "package-lock.json", "requirements.txt")
FOLDER = Path(sys.prefix) / "linters"
_NPM, _PIP, _DONE = FOLDER / "npm", FOLDER / "pip", FOLDER / "installed.sha256"
REMEDY = "run `python -m tests.infra.linters` once, with a network and npm (it comes with Node.js 22 or newer)"


def install() -> None:
    """Install what the locks name. Raises RuntimeError without npm, CalledProcessError where a download fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not on the PATH: install Node.js 22 or newer, which the CDK needs as well")
    shutil.rmtree(FOLDER, ignore_errors=True)
    _NPM.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, _NPM)
    subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=_NPM, check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "--target", str(_PIP), "--requirement", str(HERE / "requirements.txt")],
        check=True,
    )  # fmt: skip
    _DONE.write_text(_digest(), encoding="utf-8")


def missing() -> str:
    """What keeps the linters from running, and what to do about it; empty where they are there."""
    if not _DONE.is_file():
        return f"asl-validator and parliament are not installed in {FOLDER.name}/: {REMEDY}"
    if _DONE.read_text(encoding="utf-8") != _digest():
        return f"asl-validator and parliament are of other versions than their locks say: {REMEDY}"
    return "" if shutil.which("node") else f"node is not on the PATH: {REMEDY}"


def validate_machines(files: Iterable[Path]) -> str:
    """What asl-validator says about state machines that are not valid; empty where all are."""
    arguments = [part for file in files for part in ("--json-path", str(file))]
    program = _NPM / "node_modules" / "asl-validator" / "dist" / "bin" / "asl-validator.js"
    done = subprocess.run(["node", str(program), *arguments], capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def audit_policies(documents: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """parliament's findings about policies by name: the name, the issue and its detail, each once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "audit.py")],
        input=json.dumps(documents),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_PIP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [(name, issue, detail) for name, issue, detail in json.loads(done.stdout)]


def _digest() -> str:
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LOCKS)).hexdigest()
