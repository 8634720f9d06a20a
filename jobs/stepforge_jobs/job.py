"""One running job: its spec, its folders under SageMaker's contract, and what it says while it runs.

Folders below the base (SAGEMAKER_BASE_DIR, /opt/ml by default): input/data/<channel>, model, checkpoints, output.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from stepforge.contracts.jobs import Channel, JobSpec
from stepforge.contracts.manifests import Manifest, check_files, read_manifest
from stepforge.contracts.metrics import PROGRESS_EVENT
from stepforge.errors import InvalidInput


class Interrupted(Exception):
    """SIGTERM arrived and what is needed to go on lies in the checkpoint."""


@dataclass
class Progress:
    """JSON lines on stdout, at most one in `interval_seconds` of each stage, and always its last."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    interval_seconds: float = 0.5
    position: dict[str, Any] = field(default_factory=dict)
    """Stage, step and steps of the last progress, said or not."""
    moved: float = field(default_factory=time.monotonic)
    """When that was, on the monotonic clock."""
    said: float = field(default_factory=time.monotonic)
    """When the last line was written, on the monotonic clock."""
    _last: dict[str, float] = field(default_factory=dict)

    def step(self, stage: str, step: int, steps: int, **values: float) -> None:
        now = time.monotonic()
        self.position, self.moved = {"stage": stage, "step": step, "steps": steps}, now
        if step < steps and now - self._last.get(stage, 0.0) < self.interval_seconds:
            return
        self._last[stage] = now
        shown = {name: float(f"{value:.6g}") for name, value in values.items()}
        self.event(PROGRESS_EVENT, stage=stage, step=step, steps=steps, **shown)

    def warn(self, message: str) -> None:
        self.event("warning", message=message)

    def event(self, event: str, **values: Any) -> None:
        self.said = time.monotonic()
        # In one piece: the heartbeat speaks from another thread.
        self.stream.write(json.dumps({"event": event, **values}) + "\n")
        self.stream.flush()


@dataclass(frozen=True)
class Job:
    """What a work function gets."""

    spec: JobSpec
    base: Path
    progress: Progress = field(default_factory=Progress)

    @property
    def model_dir(self) -> Path:
        """Where the artifact goes; its manifest is written last."""
        return self.base / "model"

    @property
    def checkpoint_dir(self) -> Path:
        """Survives restarts of the job. One folder a spec, so that another's checkpoint is never taken for ours."""
        return self.base / "checkpoints" / self.spec.identity[:16]

    def channel(self, name: Channel) -> Path:
        return self.base / "input" / "data" / name

    def manifest(self, name: Channel) -> Manifest:
        """Manifest of an input, compared with the digest in the spec; its files are not looked at yet."""
        ref = self.spec.inputs.get(name)
        if ref is None:
            raise InvalidInput(
                f"a {self.spec.type!r} job without the channel {name!r}; given: {sorted(self.spec.inputs)}"
            )
        return read_manifest(self.channel(name), expected_sha256=ref.sha256)

    def artifact(self, name: Channel) -> Manifest:
        """Manifest of an input all of whose files were compared with their digests.

        Raises IntegrityError naming the first file that differs.
        """
        manifest = self.manifest(name)
        check_files(self.channel(name), manifest)
        return manifest


def base_dir() -> Path:
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def read_spec(base: Path) -> JobSpec:
    """Raises InvalidInput where the spec is missing, malformed, or another job's.

    SageMaker tells a job its name (TRAINING_JOB_NAME), which begins with the digest of its spec: what comes of another
    spec would be taken for the result of the one that is named.
    """
    path = base / "input" / "data" / "spec" / "spec.json"
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: a job reads its spec from the channel 'spec'")
    try:
        spec = JobSpec.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{path} is not a job spec: {error}") from error
    name = os.environ.get("TRAINING_JOB_NAME", "")
    if name and not re.fullmatch(rf"{spec.prefix}-a\d+", name):
        raise InvalidInput(
            f"the spec of job {name!r} is that of {spec.prefix}: give it the channel 'spec' of its own, or let "
            "stepforge submit it"
        )
    return spec
