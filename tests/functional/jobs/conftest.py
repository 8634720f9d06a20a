"""A counting dataset, its gate and a base model, made once by the jobs themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import forked
from tests.support.job_folders import TINY, counting_plugin, job_folder

from stepforge.contracts.work import DatasetWork, GateWork, SftWork
from stepforge_jobs.main import OFFLINE


@dataclass(frozen=True)
class World:
    """Artifacts of finished jobs."""

    plugin: Path
    data: Path
    gate: Path
    base: Path

    @property
    def inputs(self) -> dict[str, Path]:
        return {"plugin": self.plugin, "data": self.data, "gate": self.gate}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    os.environ.update(OFFLINE)
    import peft  # noqa: F401 - before any fork, so that no child imports it again
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    plugin = counting_plugin(root / "plugin")
    work = DatasetWork(domain="counting", corpus=1_500, train=36, rl=40, test=60, shard_rows=500)
    job_folder(root / "data", work, plugin=plugin)
    data = forked.succeed(root / "data")
    job_folder(root / "gate", GateWork(), plugin=plugin, data=data)
    gate = forked.succeed(root / "gate")
    base = SftWork(name="base", split="corpus", steps=250, batch_size=64, learning_rate=5e-3, checkpoint_every=100)
    job_folder(root / "base", base, start=TINY, plugin=plugin, data=data, gate=gate)
    return World(plugin=plugin, data=data, gate=gate, base=forked.succeed(root / "base"))
