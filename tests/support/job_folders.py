"""Job folders under SageMaker's contract, and processes that run in them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef, Channel, JobSpec, Plugin
from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge.contracts.work import LocalModel, ScratchModel, Work
from stepforge_jobs.job import Job, Progress, read_spec

ROOT = Path(__file__).resolve().parents[2]
CODE = "0" * 64
TINY = ScratchModel(hidden_size=32, layers=2, heads=2, context=32)
COUNTING = Plugin(domain="counting_plugin:DOMAIN")


def counting_plugin(folder: Path) -> Path:
    """A plugin artifact whose domain is CountingDomain."""
    folder.mkdir(parents=True)
    (folder / "counting_plugin.py").write_text(
        "from stepforge_jobs.testing import CountingDomain\n\nDOMAIN = CountingDomain()\n"
    )
    write_manifest(folder, "plugin")
    return folder


def job_folder(
    base: Path,
    work: Work,
    *,
    domain: str = "counting",
    start: ScratchModel | LocalModel | None = None,
    code: Plugin | None = COUNTING,
    **channels: Path,
) -> JobSpec:
    """Lay out `base` as SageMaker would: the spec, and each artifact linked in as a channel."""
    inputs: dict[Channel, ArtifactRef] = {}
    data = base / "input" / "data"
    (data / "spec").mkdir(parents=True, exist_ok=True)
    for name, artifact in channels.items():
        if not (data / name).exists():
            (data / name).symlink_to(artifact, target_is_directory=True)
        inputs[name] = ArtifactRef(uri=f"s3://bucket-of-tests/{name}/", sha256=read_manifest(artifact).sha256)  # type: ignore[index]
    spec = JobSpec(domain=domain, work=work, model=start, inputs=inputs, plugin=code, code_sha256=CODE)
    (data / "spec" / "spec.json").write_bytes(canonical_json(spec))
    return spec


def opened(base: Path) -> Job:
    """The job of a folder, silent, for a work function that a test calls itself."""
    job = Job(spec=read_spec(base), base=base, progress=Progress(stream=io.StringIO()))
    job.model_dir.mkdir(parents=True, exist_ok=True)
    job.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    return job


def environment(base: Path) -> dict[str, str]:
    """Environment of a job's process: nothing of the caller's but the path to its programs."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "SAGEMAKER_BASE_DIR": str(base),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")]),
        "OMP_NUM_THREADS": "1",
    }


def start_job(base: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stepforge_jobs.main", "train"],
        env=environment(base),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_job(base: Path) -> Path:
    """Run to success and return the artifact's folder."""
    process = start_job(base)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return base / "model"


def copy_artifact(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
