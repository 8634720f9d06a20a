"""One synth for all tests of the infrastructure. cdk-nag and our rules run in it: a finding fails every test."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# jsii warns at length about versions of Node.js that still work.
os.environ.setdefault("JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION", "1")
os.environ.setdefault("JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION", "1")


@dataclass(frozen=True)
class Synth:
    folder: Path
    stacks: dict[str, dict[str, Any]]
    """Stack to template."""
    templates: dict[str, dict[str, Any]]
    """Environment to the resources of all its stacks, as one template. See `_merged`."""


NAMES = ("local", "dev", "staging", "prod")


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synth:
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    from cdk.app import build

    folder = tmp_path_factory.mktemp("cdk.out")
    with pytest.MonkeyPatch.context() as patch:
        # Anywhere but the repository, at nobody's home, and without credentials: synth needs none of them.
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        build(*NAMES, outdir=str(folder)).synth()
    stacks = {
        path.name.removesuffix(".template.json"): json.loads(path.read_text())
        for path in sorted(folder.glob("*.template.json"))
    }
    return Synth(folder, stacks, {name: _merged(stacks, f"stepforge-{name}") for name in NAMES})


def _merged(stacks: dict[str, dict[str, Any]], stem: str) -> dict[str, Any]:
    """One template of the stack `stem` and those that begin with `{stem}-`; what two call alike gets a number."""
    own = [template for name, template in stacks.items() if name == stem or name.startswith(f"{stem}-")]
    names = [name for template in own for name in template["Resources"]]
    shared = {name for name in names if names.count(name) > 1}
    return {
        **(own[0] if len(own) == 1 else {}),
        "Resources": {
            f"{name}X{number}" if name in shared else name: resource
            for number, template in enumerate(own)
            for name, resource in template["Resources"].items()
        },
    }
