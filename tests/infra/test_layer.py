"""The layer of the handlers: what the lock names, byte for byte the same each time, and loadable on Lambda."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest

pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")

from cdk.code import PYTHON
from cdk.layers import LOCK, NOT_LOADED, PROVIDERS, PROVIDERS_LOCK, lay_out, locked, wheels

from stepforge.errors import EnvironmentUnavailable, InvalidInput

from .conftest import Synth

ROOT = Path(__file__).parents[2]
OF_FINETUNE = ("finetune", "grade", "_judging")
"""Handlers that need the bundle with domains and providers."""


def digest(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state.update(f"{path.relative_to(folder)} {path.stat().st_mode}".encode())
        state.update(path.read_bytes() if path.is_file() else b"")
    return state.hexdigest()


def test_the_same_lock_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lay_out(wheels(), tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_what_is_compiled_is_for_lambdas_linux_and_python(synth: Synth) -> None:
    (folder,) = synth.folder.glob("asset.*/python")
    compiled = [path.name for path in folder.rglob("*.so*")]
    assert {name.partition(".")[0] for name in compiled} >= {"_pydantic_core", "_cffi_backend", "_rust"}
    names = [path.name for path in wheels()]
    assert all(re.search(r"-(none-any|manylinux.*2_17_x86_64)\.whl$", name) for name in names), names
    with zipfile.ZipFile(next(path for path in wheels() if path.name.startswith("pydantic_core"))) as archive:
        (native,) = [name for name in archive.namelist() if name.endswith(".so")]
        needed = {tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_(\d+\.\d+)", archive.read(native))}
    # Amazon Linux 2, on which Lambda's Python 3.11 runs, has glibc 2.26.
    assert max(needed) <= (2, 26)
    tagged = [
        name.split("-")[2] for name in names if name.split("-")[3] != "abi3" and not name.endswith("none-any.whl")
    ]
    assert set(tagged) == {f"cp{PYTHON.replace('.', '')}"}


def functions_python() -> str | None:
    """The interpreter that functions run on, where this machine has it."""
    found = shutil.which(f"python{PYTHON}")
    if found is None or sys.platform != "linux":
        return None
    # A version manager may have a name on PATH for what it does not run.
    return found if subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0 else None


def test_the_handlers_import_with_the_layer_and_what_lambda_has(synth: Synth) -> None:
    if (python := functions_python()) is None:
        pytest.skip(f"it needs Linux and python{PYTHON} on PATH")
    (layer,) = synth.folder.glob("asset.*/python")
    has_boto3 = Path(boto3.__file__).parents[1]
    program = (
        "import importlib, sys; sys.path[:0] = sys.argv[1:3]; sys.path.append(sys.argv[3])\n"
        "for name in sys.argv[4:]: importlib.import_module(name)\n"
        "from cryptography.hazmat.primitives.asymmetric import rsa\n"
        "import pydantic; print(pydantic.__file__, sys.modules['rotate_secret'].__file__)"
    )
    bundles = {path.parent for path in synth.folder.glob("asset.*/rotate_secret.py")}
    assert len(bundles) == 2
    for code in bundles:
        judges = (code / "stepforge_jobs").is_dir()
        names = [path.stem for path in code.glob("*.py") if judges or not path.stem.startswith(OF_FINETUNE)]
        command = [python, "-I", "-c", program, str(code), str(layer), str(has_boto3), *names]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(layer / "pydantic" / "__init__.py"), str(code / "rotate_secret.py")]


def test_the_layer_has_the_versions_that_datasets_are_checked_with() -> None:
    image = (ROOT / "containers" / "data" / "requirements.lock").read_text().splitlines()
    assert {line for line in image if "==" in line} <= set(locked().values())


def test_the_clients_of_providers_are_locked_whole_and_mix_no_versions_with_the_handlers_layer() -> None:
    ours, clients = ({line.partition("==")[0] for line in locked(lock).values()} for lock in (LOCK, PROVIDERS_LOCK))
    assert set(PROVIDERS) <= clients
    assert ours & clients == set()
    assert {"httpx2", "google-auth", "requests"} <= clients


def test_without_a_network_a_synth_is_served_from_the_wheels_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert len(wheels()) == len(locked())
    with pytest.raises(EnvironmentUnavailable, match=r"run `python -m cdk\.layers` once with a network"):
        wheels(cache=tmp_path / "empty")


def test_a_line_without_a_hash_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK.read_text() + "requests==2.0\n")
    with pytest.raises(InvalidInput, match=r"requests==2\.0"):
        locked(lock)


def test_what_is_left_out_of_the_layer_of_providers_is_not_loaded_by_them() -> None:
    left_out = [entry.replace("/", ".") for entry in NOT_LOADED]
    script = (
        "import sys; from fnmatch import fnmatch; from google.oauth2.credentials import Credentials as C; "
        "from stepforge.finetune.vertex import VertexProvider as V; "
        "from stepforge.finetune.vertex_jobs import VertexJobs as J; "
        "given = {'project': 'p', 'location': 'l', 'credentials': C(token='t')}; "
        "V(folder_uri='gs://b/f', **given), J(**given); "
        f"left_out = {left_out!r}; "
        "print([m for m in sys.modules if any(fnmatch(m, l) or fnmatch(m, l + '.*') for l in left_out)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": "sdk"})
    assert done.stdout.strip() == "[]", done.stderr
