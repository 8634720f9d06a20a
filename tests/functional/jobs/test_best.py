"""keep = "best": the checkpoint that validates best becomes the model, and run.json says by which rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import job_folder, opened

from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import KlControl, LocalModel, RlvrWork
from stepforge.errors import InvalidInput
from stepforge_jobs.datasets.shards import read_records
from stepforge_jobs.training.stage import Probe, begin
from stepforge_jobs.training.state import BEST_RULE, WEIGHTS
from stepforge_jobs.training.validation import held_out

# A rate that destroys the model: no later checkpoint is better than the first.
WORK = RlvrWork(
    steps=6,
    checkpoint_every=2,
    learning_rate=0.05,
    beta=0.05,
    warmup_steps=0,
    batch_prompts=4,
    group_size=4,
    max_new_tokens=10,
    reward="partial",
    keep="best",
)


def lay_out(base: Path, world: World, work: RlvrWork = WORK) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return base


def report_of(model: Path) -> StageReport:
    return StageReport.model_validate_json((model / "run.json").read_bytes())


def same(model: Path, checkpoint: Path) -> bool:
    saved, kept = load_file(model / "model.safetensors"), load_file(checkpoint / WEIGHTS)
    return all(torch.equal(saved[name], kept[name]) for name in saved)


def test_the_best_checkpoint_becomes_the_model_and_a_damaged_one_does_not(world: World, tmp_path: Path) -> None:
    base = lay_out(tmp_path / "job", world)
    model = forked.succeed(base)
    first, before, last = sorted(base.glob("checkpoints/*/step-*"))
    assert [path.name for path in (first, before, last)] == ["step-00000002", "step-00000004", "step-00000006"]
    choices = report_of(model).choices
    assert (choices["kept"], choices["best"]["step"], choices["best_rule"]) == ("best", 2, BEST_RULE)
    assert same(model, first)
    assert not same(model, last)

    data = bytearray((first / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (first / WEIGHTS).write_bytes(data)
    model = forked.succeed(base)
    choices = report_of(model).choices
    assert choices["kept"] == "last"
    assert "step-00000002, is damaged" in choices["kept_because"]
    assert choices["kept_because"] in (base / "log.txt").read_text()
    assert same(model, last)


def test_where_every_evaluation_is_refused_the_log_and_run_json_say_that_nothing_was_learnt(
    world: World, tmp_path: Path
) -> None:
    work = WORK.model_copy(update={"steps": 4, "beta": 0.0, "kl": KlControl(cap=1e-6)})
    base = lay_out(tmp_path / "job", world, work)
    model = forked.succeed(base)
    report = report_of(model)
    assert (report.choices["kept"], report.choices["best_rule"]) == ("initial", BEST_RULE)
    why = report.choices["kept_because"]
    assert why.startswith("all 2 evaluations found the KL over the cap of 1e-06 nats a token")
    assert "Raise kl.cap, lower learning_rate" in why
    warned = [json.loads(line) for line in (base / "log.txt").read_text().splitlines() if '"warning"' in line]
    assert f"rlvr: {why}" in [line["message"] for line in warned]
    before, after = load_file(world.base / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_run_json_says_how_many_prompts_the_probe_had_and_where_it_cut(world: World, tmp_path: Path) -> None:
    base = lay_out(tmp_path / "job", world)
    start = begin(opened(base), WORK, "rl", "train")
    retained = sum(record.stratum == "retained" for record in start.records)
    assert 0 < retained < 64
    said = Probe(start, seed=0).choices["kl_metric"]
    assert f"8 completions of each of {retained} prompts (retained)" in said
    assert "cut after 64 tokens" in said


def test_what_is_validated_on_is_not_trained_on_and_comes_from_no_test_split(world: World, tmp_path: Path) -> None:
    job = opened(lay_out(tmp_path / "job", world))
    start = begin(job, WORK, "rl", "train")
    problems = {record.id for record in read_records(job.channel("data"), start.data, "rl")}
    unseen = {record.id for record in start.held_out}
    assert unseen
    assert unseen == {record.id for record in held_out(job, WORK, start.data)}
    assert unseen < problems
    assert not unseen & {record.id for record in start.records}


def test_without_enough_problems_the_error_says_how_many_and_what_to_do(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = opened(lay_out(tmp_path / "job", world))
    monkeypatch.setattr("stepforge_jobs.training.validation.read_records", lambda *_: [])
    with pytest.raises(InvalidInput, match="of 0 that leaves none: give more, raise held_out, or set keep = 'last'"):
        held_out(job, WORK, job.manifest("data"))
