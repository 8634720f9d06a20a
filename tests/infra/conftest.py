"""One synth for all tests of the infrastructure. cdk-nag and our rules run in it: a finding fails every test."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .merged import environment, read_stacks


@dataclass(frozen=True)
class Synth:
    folder: Path
    stacks: dict[str, dict[str, Any]]
    """Stack to template."""
    templates: dict[str, dict[str, Any]]
    """Environment to the resources of all its stacks, as one template. See `merged`."""


NAMES = ("local", "dev", "staging", "prod")


TUNING_ROLE = "arn:aws:iam::111122223333:role/tuning"
REPOSITORY = "org/name"


def with_more(name: str) -> Any:
    """`staging` tunes at Bedrock and SageMaker and is deployed by CI: those grants stand before the rules too."""
    from cdk.settings import settings

    found = settings(name)
    more = {"tuning_role_arn": TUNING_ROLE, "repository": REPOSITORY}
    return found.model_copy(update=more) if name == "staging" else found


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synth:
    """By whichever worker of a session comes first, for all of them."""
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "synth" / "cdk.out"
    folder.parent.mkdir(exist_ok=True)
    done = folder.parent / "done"
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _synthesise(folder, tmp_path_factory)
            done.touch()
    stacks = read_stacks(folder)
    return Synth(folder, stacks, {name: environment(stacks, name) for name in NAMES})


def _synthesise(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from cdk.app import build

    with pytest.MonkeyPatch.context() as patch:
        # Anywhere but the repository, at nobody's home, and without credentials: synth needs none of them.
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setattr("cdk.app.settings", with_more)
        build(*NAMES, outdir=str(folder)).synth()
