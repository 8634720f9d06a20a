"""The spec that a job reads is the one that its name was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.work import DatasetWork
from stepforge.errors import InvalidInput
from stepforge_jobs.job import read_spec

SPEC = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "input" / "data" / "spec"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes(canonical_json(SPEC))
    return tmp_path


@pytest.mark.parametrize("name", [f"dataset-{'0' * 12}-a0", f"gate-{SPEC.identity[:12]}-a0", "mine"])
def test_a_job_of_another_name_does_not_run_the_spec(base: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINING_JOB_NAME", name)
    with pytest.raises(InvalidInput, match=f"job '{name}' is that of {SPEC.prefix}"):
        read_spec(base)


@pytest.mark.parametrize("name", [None, f"{SPEC.prefix}-a0", f"{SPEC.prefix}-a12"])
def test_every_attempt_of_its_own_name_does(base: Path, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINING_JOB_NAME", raising=False)
    if name is not None:
        monkeypatch.setenv("TRAINING_JOB_NAME", name)
    assert read_spec(base) == SPEC
