"""PPO, DPO and a KL that is held, as jobs: what they teach, keep and leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import job_folder

from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import KlControl, LocalModel, Lora, RlvrWork

SHORT = {"max_new_tokens": 10, "batch_prompts": 8, "checkpoint_every": 10, "reward": "partial"}


def run(base: Path, world: World, work: RlvrWork) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return forked.succeed(base)


def rows(model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]


def names(path: Path) -> set[str]:
    with safe_open(path, "pt") as weights:
        return set(weights.keys())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_ppo_learns_and_its_value_head_is_in_checkpoints_alone(world: World, tmp_path: Path) -> None:
    model = run(tmp_path, world, RlvrWork(algorithm="ppo", steps=30, updates_per_batch=2, **SHORT))
    found = rows(model)
    assert mean([row["reward"] for row in found[-8:]]) > mean([row["reward"] for row in found[:8]]) + 0.05
    assert mean([row["value_loss"] for row in found[-8:]]) < mean([row["value_loss"] for row in found[:8]])
    head = {"value_head.weight", "value_head.bias"}
    newest = sorted(tmp_path.glob("checkpoints/*/step-*"))[-1]
    assert head <= names(newest / "weights.safetensors")
    assert not any("value" in name for name in names(model / "model.safetensors"))
    report = StageReport.model_validate_json((model / "run.json").read_bytes())
    assert report.type == "rlvr"
    assert report.choices["loss"].startswith("ppo, ")


@pytest.mark.parametrize("rollouts", ["current", "initial"])
def test_dpo_learns_from_verified_and_refused_rollouts(world: World, tmp_path: Path, rollouts: str) -> None:
    model = run(tmp_path, world, RlvrWork(algorithm="dpo", dpo={"rollouts": rollouts}, beta=0.1, steps=25, **SHORT))
    found = rows(model)
    assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert mean([row["loss"] for row in found[-8:]]) < 0.66
    assert mean([row["margin"] for row in found[-8:]]) > 0.1
    if rollouts == "current":
        assert mean([row["reward"] for row in found[-8:]]) > mean([row["reward"] for row in found[:8]]) + 0.03


def test_what_stays_is_below_the_cap_although_the_same_stage_leaves_it_behind_without(
    world: World, tmp_path: Path
) -> None:
    stock = RlvrWork(steps=20, rehearsal_share=0.0, **SHORT | {"checkpoint_every": 5})
    stock = stock.model_copy(update={"learning_rate": 3e-3, "warmup_steps": 0})
    # A beta that cannot hold anything, so that the guard has to.
    held = stock.model_copy(update={"kl": KlControl(cap=0.02, beta_max=0.02)})
    loose, kept = rows(run(tmp_path / "stock", world, stock)), run(tmp_path / "held", world, held)
    found = rows(kept)
    assert max(row["kl"] for row in loose if "kl" in row) > 0.02
    evaluated = [row for row in found if "kl" in row]
    assert [row["step"] for row in evaluated] == [5, 10, 15, 20]
    assert all(row["kl"] <= 0.02 for row in evaluated)
    refused = [row["kl_refused"] for row in evaluated if "kl_refused" in row]
    assert refused
    assert all(kl > 0.02 for kl in refused)
    report = StageReport.model_validate_json((kept / "run.json").read_bytes())
    assert report.choices["kl_refused_evaluations"] == len(refused)
    assert report.choices["learning_rate_scale"] == 0.5 ** len(refused)
    after = [row["learning_rate"] for row in found if row["step"] > evaluated[-2]["step"]]
    assert max(after) < max(row["learning_rate"] for row in loose[15:])
    hard = [row for row in evaluated if "kl_hard" in row]
    assert all(row["kl_hard_bound"] > 0 and row["kl_hard"] >= 0 for row in hard)


def test_with_shared_prefixes_a_stage_learns_what_it_learns_row_by_row_and_says_where_it_shared(
    world: World, tmp_path: Path
) -> None:
    given = {"steps": 5, "beta": 0.05, "updates_per_batch": 2, **SHORT}
    works = {
        "shared": RlvrWork(**given),
        "rows": RlvrWork(share_prefixes=False, **given),
        "adapters": RlvrWork(lora=Lora(), **given),
    }
    made = {name: run(tmp_path / name, world, work) for name, work in works.items()}
    one, other = (load_file(made[name] / "model.safetensors") for name in ("shared", "rows"))
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-3, atol=2e-5), name
    ratios = {name: {row["token_ratio"] > 1 for row in rows(model)} for name, model in made.items()}
    assert ratios == {"shared": {True}, "rows": {False}, "adapters": {False}}
    timed = ("sampling", "reward", "reference", "forward", "backward", "optimiser")
    for row in rows(made["shared"]):
        assert sum(row[f"{phase}_seconds"] for phase in timed) <= row["seconds"]
        assert row["flop_share"] > 0
    words = {
        name: StageReport.model_validate_json((model / "run.json").read_bytes()).choices["prefixes"]
        for name, model in made.items()
    }
    assert words["shared"].endswith(", the gradient")
    assert words["rows"] == "row by row: share_prefixes is false"
    reason = "dropout 0.05 of a layer falls on each row apart"
    assert words["adapters"].endswith(f"that sampled; but the gradient row by row: {reason}")
    said = [json.loads(line) for line in (tmp_path / "adapters/log.txt").read_text().splitlines() if '"note"' in line]
    assert [line["message"] for line in said] == [f"rlvr: prefixes are not shared: {reason}"]
