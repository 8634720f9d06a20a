"""One synth for all tests of the infrastructure. cdk-nag runs in it, so that a finding fails every test here."""

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
    templates: dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synth:
    pytest.importorskip("aws_cdk", reason="the extra [cdk] is not installed")
    from cdk.app import build

    folder = tmp_path_factory.mktemp("cdk.out")
    with pytest.MonkeyPatch.context() as patch:
        # Anywhere but the repository, and without credentials: synth needs neither.
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        build("local", "dev", outdir=str(folder)).synth()
    names = ("local", "dev")
    return Synth(folder, {n: json.loads((folder / f"stepforge-{n}.template.json").read_text()) for n in names})
