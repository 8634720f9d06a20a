"""Experiments by job specs: run the shipped jobs one after another in a folder, and read what they scored."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef, JobSpec, Plugin
from stepforge.contracts.manifests import MANIFEST, read_manifest
from stepforge.contracts.work import LocalModel, ScratchModel
from stepforge.installation.code_digest import code_digests

ROOT = Path(__file__).resolve().parents[2]
RESAMPLES = 4_000

Cell = dict[int, np.ndarray]
"""Seed to the share of accepted completions of each record."""


class Runner:
    """Runs job specs below one folder, each under SageMaker's folder contract in a process of its own.

    What is done is adopted, so an experiment that was cut off goes on.
    """

    def __init__(
        self, domain: str, work: Path, *, plugin: Plugin | None = None, plugin_code: Path | None = None
    ) -> None:
        self.domain = domain
        self.work = work
        self.plugin, self.plugin_code = plugin, plugin_code
        roots = {"stepforge": ROOT / "sdk" / "stepforge", "stepforge_jobs": ROOT / "jobs" / "stepforge_jobs"}
        self.code = code_digests(roots, ROOT / "containers" / "train" / "requirements.lock")

    def run(
        self,
        work: Any,
        inputs: dict[str, Path],
        model: ScratchModel | LocalModel | None = None,
        *,
        by: Callable[[Path], None] | None = None,
    ) -> tuple[JobSpec, Path]:
        """The spec of a job and the folder of its artifact; runs it unless that is there already.

        `by` runs it in place of the shipped job: it finds the job's folder and ends its process.
        """
        if self.plugin_code is not None:
            inputs = {**inputs, "plugin": self.plugin_code}
        refs = {
            channel: ArtifactRef(uri=f"s3://experiment/{channel}/", sha256=read_manifest(folder).sha256)
            for channel, folder in inputs.items()
        }
        spec = JobSpec(
            domain=self.domain,
            work=work,
            model=model,
            inputs=refs,  # type: ignore[arg-type]
            plugin=self.plugin,
            code_sha256=self.code[work.type],
        )
        base = self.work / spec.prefix
        artifact = base / "model"
        if not (artifact / MANIFEST).is_file():
            for channel, folder in inputs.items():
                target = base / "input" / "data" / channel
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(folder, target)
            (base / "input" / "data" / "spec").mkdir(parents=True, exist_ok=True)
            (base / "input" / "data" / "spec" / "spec.json").write_bytes(canonical_json(spec))
            process = multiprocessing.get_context("fork").Process(target=by or _run_job, args=(base,))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"{spec.prefix} failed: see {base / 'log'}")
        return spec, artifact


def _run_job(base: Path) -> None:
    log = os.open(base / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["SAGEMAKER_BASE_DIR"] = str(base)
    from stepforge_jobs.main import main

    os._exit(main(["train"]))


def equal_token_steps(reference: Path, data: Path, *, batch_size: int = 32) -> int:
    """SFT steps whose completion tokens (words and the end) add up to those of the stage in `reference`."""
    tokens = json.loads((reference / "run.json").read_text())["tokens"]
    lengths = []
    for shard in sorted((data / "records").glob("train-*.jsonl")):
        for line in shard.read_text().splitlines():
            record = json.loads(line)
            lengths.append(sum(len(step["action"].split()) for step in record["steps"]) + 1)
    return max(1, round(tokens / (batch_size * sum(lengths) / len(lengths))))


def head_of(artifact: Path) -> dict[str, Any]:
    """What a row says about the stage that trained the model."""
    stage = json.loads((artifact / "run.json").read_text())
    return {"tokens": stage["tokens"], "steps": stage["steps"], "seconds": round(stage["seconds"], 1)}


def cells(result: Path) -> list[dict[str, Any]]:
    """Accepted completions for each record, by split and decoding, in the order of the records."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for line in (result / "rows.ndjson").read_text().splitlines():
        row = json.loads(line)
        cell = found.setdefault((row["split"], row["decoding"]), {})
        cell.setdefault(row["record"], []).append(int(row["accepted"]))
    return [
        {
            "split": split,
            "decoding": decoding,
            "completions": len(next(iter(cell.values()))),
            "accepted": [sum(values) for _, values in sorted(cell.items())],
        }
        for (split, decoding), cell in sorted(found.items())
    ]


def load_rows(path: Path) -> tuple[list[dict[str, Any]], dict[tuple[str, str, str], Cell]]:
    """Committed rows, and the share of accepted completions by (arm, split, decoding)."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found: dict[tuple[str, str, str], Cell] = {}
    for row in rows:
        share = np.array(row["accepted"], dtype=float) / row["completions"]
        found.setdefault((row["arm"], row["split"], row["decoding"]), {})[row["seed"]] = share
    return rows, found


def interval(cell: Cell, baseline: Cell | None = None, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the 2.5 and 97.5 percentiles of a bootstrap over seeds and the records within them.

    With a baseline the difference, paired by seed and record.
    """
    values = {s: share - (0.0 if baseline is None else baseline[s]) for s, share in cell.items()}
    seeds = sorted(values)
    generator = np.random.Generator(np.random.PCG64(seed))
    # Means of resampled records for each seed; then a resample of seeds picks one of them each time it is drawn.
    inner = np.stack(
        [values[s][generator.integers(0, len(values[s]), size=(RESAMPLES, len(values[s])))].mean(axis=1) for s in seeds]
    )
    drawn = generator.integers(0, len(seeds), size=(RESAMPLES, len(seeds)))
    rows = generator.integers(0, RESAMPLES, size=(RESAMPLES, len(seeds)))
    means = inner[drawn, rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([v.mean() for v in values.values()])), float(low), float(high)


def show(found: tuple[float, float, float], *, signed: bool = False) -> str:
    mean, low, high = found
    sign = "+" if signed else ""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def verdict(found: tuple[float, float, float]) -> str:
    """Which way an interval of a difference lies."""
    _, low, high = found
    return "yes" if low > 0 else "below" if high < 0 else "not decided"
