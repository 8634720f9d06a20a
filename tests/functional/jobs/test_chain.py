"""The whole chain on a task that a tiny model learns in seconds, and what each job refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import copy_artifact, job_folder, run_job

from stepforge.contracts.manifests import read_manifest, write_manifest
from stepforge.contracts.previews import PREVIEWS, Preview
from stepforge.contracts.reports import EvaluationReport, GateReport, StageReport
from stepforge.contracts.work import (
    DatasetWork,
    EvaluateWork,
    GateWork,
    LocalModel,
    RlvrWork,
    ScratchModel,
    SftWork,
    SrlWork,
)

EVALUATION = EvaluateWork(samples=4, max_new_tokens=12, bootstrap=200)


@pytest.fixture(scope="module")
def stages(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stages")
    made = {"base": world.base}
    srl = SrlWork(steps=40, max_new_tokens=4, similarity="words", instances="all", asking="plain")
    rlvr = RlvrWork(steps=40, max_new_tokens=12)
    for work, before in ((srl, "base"), (rlvr, "srl")):
        job_folder(root / work.name, work, start=LocalModel(), model=made[before], **world.inputs)
        made[work.name] = forked.succeed(root / work.name)
    for name in list(made):
        job_folder(root / f"of-{name}", EVALUATION, plugin=world.plugin, data=world.data, model=made[name])
        made[f"of-{name}"] = forked.succeed(root / f"of-{name}")
    return made


def report(stages: dict[str, Path], name: str) -> EvaluationReport:
    return EvaluationReport.model_validate_json((stages[f"of-{name}"] / "evaluation.json").read_bytes())


def stage(stages: dict[str, Path], name: str) -> StageReport:
    return StageReport.model_validate_json((stages[name] / "run.json").read_bytes())


def test_srl_then_rlvr_teach_what_the_base_does_not_know_and_keep_what_it_knows(stages: dict[str, Path]) -> None:
    hard = [report(stages, name).score("test_known", "sampled").mean for name in ("base", "srl", "rlvr")]
    assert hard[0] < hard[1] < hard[2]
    assert (
        report(stages, "rlvr").score("test_known", "greedy").low
        > report(stages, "base").score("test_known", "greedy").high
    )
    assert report(stages, "rlvr").score("test_retained", "greedy").mean >= 0.8


def test_the_report_of_a_stage_names_its_ancestors_choices_and_last_metrics(
    world: World, stages: dict[str, Path]
) -> None:
    srl, rlvr = stage(stages, "srl"), stage(stages, "rlvr")
    assert srl.parents == (read_manifest(world.base).sha256,)
    assert rlvr.parents == (*srl.parents, read_manifest(stages["srl"]).sha256)
    assert srl.choices["similarity"] == "difflib ratio of (generated, expert), autojunk off"
    assert (srl.steps, srl.parameters) == (40, stage(stages, "base").parameters)
    assert srl.tokens > 0
    assert {"reward", "similarity", "format_failures", "zero_spread", "kl", "entropy"} <= set(srl.metrics)
    assert 0 < rlvr.metrics["kl"] < 1
    assert "kl" not in stage(stages, "base").metrics


def test_the_evaluation_agrees_with_its_rows(world: World, stages: dict[str, Path]) -> None:
    found = report(stages, "srl")
    rows = [json.loads(line) for line in (stages["of-srl"] / "rows.ndjson").read_text().splitlines()]
    assert found.model_sha256 == read_manifest(stages["srl"]).sha256
    assert found.manifest_sha256 == read_manifest(world.data).sha256
    counts = {"test_known": 32, "test_new": 24, "test_retained": 60}
    for split, count in counts.items():
        sampled = [row["accepted"] for row in rows if row["split"] == split and row["decoding"] == "sampled"]
        assert len(sampled) == 4 * count
        assert found.score(split, "sampled").mean == pytest.approx(sum(sampled) / len(sampled))  # type: ignore[arg-type]
        solved = [any(sampled[i : i + 4]) for i in range(0, len(sampled), 4)]
        assert found.score(split, "sampled", "pass@4").mean == pytest.approx(sum(solved) / count)  # type: ignore[arg-type]
        interval = found.score(split, "sampled")  # type: ignore[arg-type]
        assert interval.low <= interval.mean <= interval.high
    greedy = [row for row in rows if row["split"] == "test_known" and row["decoding"] == "greedy"]
    failed = next(f for f in found.rule_failures if (f.split, f.rule) == ("test_known", "numbers"))
    assert failed.failed == sum("numbers" in row["failed_rules"] for row in greedy)
    summary = list(csv.DictReader((stages["of-srl"] / "summary.csv").open()))
    assert len(summary) == len(found.scores)
    assert float(summary[0]["mean"]) == pytest.approx(found.scores[0].value.mean, abs=1e-6)


def test_the_evaluation_keeps_good_and_bad_outputs_of_its_rows(stages: dict[str, Path]) -> None:
    kept = [Preview.model_validate(entry) for entry in json.loads((stages["of-srl"] / PREVIEWS).read_text())]
    rows = [json.loads(line) for line in (stages["of-srl"] / "rows.ndjson").read_text().splitlines()]
    known = {(row["record"], row["decoding"], row["completion"]): row["accepted"] for row in rows}
    assert {known[preview.record, preview.decoding, preview.completion] for preview in kept} == {True, False}
    assert all(known[p.record, p.decoding, p.completion] == p.accepted for p in kept)
    assert PREVIEWS in [entry.path for entry in read_manifest(stages["of-srl"]).files]


def test_an_evaluation_that_is_run_again_has_the_same_digest(
    world: World, stages: dict[str, Path], tmp_path: Path
) -> None:
    job_folder(tmp_path, EVALUATION, plugin=world.plugin, data=world.data, model=stages["srl"])
    assert read_manifest(forked.succeed(tmp_path)).sha256 == read_manifest(stages["of-srl"]).sha256


def test_progress_is_json_lines_with_stage_step_and_reward(stages: dict[str, Path]) -> None:
    events = [
        json.loads(line) for line in (stages["srl"].parent / "log.txt").read_text().splitlines() if line.startswith("{")
    ]
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["stage"], last["step"], last["steps"]) == ("srl", 40, 40)
    assert {"reward", "loss", "kl"} <= set(last)
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]


def failure(base: Path) -> str:
    assert forked.run(base) == 1
    assert not (base / "model" / "manifest.json").exists()
    return (base / "output" / "failure").read_text()


def test_a_flipped_byte_in_the_data_stops_the_job_and_names_the_shard(world: World, tmp_path: Path) -> None:
    data = copy_artifact(world.data, tmp_path / "data")
    shard = data / "records" / "train-00000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"down", b"dowm", 1))
    job_folder(tmp_path / "job", SftWork(), start=ScratchModel(), **{**world.inputs, "data": data})
    text = failure(tmp_path / "job")
    assert text.startswith("IntegrityError: ")
    assert "records/train-00000.jsonl has SHA-256" in text


def test_a_shut_gate_stops_the_job_with_record_and_rule(world: World, tmp_path: Path) -> None:
    data = copy_artifact(world.data, tmp_path / "data")
    shard = data / "records" / "test_known-00000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"counting@1", b"counting@9", 2))
    manifest = read_manifest(data)
    write_manifest(data, "dataset", metadata=manifest.metadata)
    job_folder(tmp_path / "gate", GateWork(), plugin=world.plugin, data=data)
    gate = forked.succeed(tmp_path / "gate")
    assert not GateReport.model_validate_json((gate / "gate.json").read_bytes()).passed
    job_folder(
        tmp_path / "job", SrlWork(), start=LocalModel(), plugin=world.plugin, data=data, gate=gate, model=world.base
    )
    text = failure(tmp_path / "job")
    assert text.startswith(
        "InvalidInput: the data failed the gate: record 'counting-test_known-0', verifier rule 'name'"
    )


def test_a_pickle_beside_the_weights_stops_the_job(world: World, tmp_path: Path) -> None:
    model = copy_artifact(world.base, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    write_manifest(model, "model")
    job_folder(tmp_path / "job", EVALUATION, plugin=world.plugin, data=world.data, model=model)
    assert failure(tmp_path / "job").startswith("IntegrityError: ")


def test_a_model_that_is_missing_files_is_named_with_its_path(world: World, tmp_path: Path) -> None:
    model = copy_artifact(world.base, tmp_path / "model")
    (model / "tokenizer.json").unlink()
    write_manifest(model, "model")
    job_folder(tmp_path / "job", SftWork(), start=LocalModel(), model=model, **world.inputs)
    text = failure(tmp_path / "job")
    assert "is not a model: missing tokenizer.json" in text
    assert str(tmp_path / "job" / "input" / "data" / "model") in text


def test_an_unknown_domain_and_a_broken_spec_each_get_one_sentence(tmp_path: Path) -> None:
    job_folder(tmp_path / "a", DatasetWork(domain="facal"), domain="facal", code=None)
    assert failure(tmp_path / "a").startswith("UnknownName: unknown domain 'facal': did you mean 'facial'?")
    spec = tmp_path / "a" / "input" / "data" / "spec" / "spec.json"
    spec.write_bytes(spec.read_bytes().replace(b'"dataset"', b'"datasets"'))
    assert failure(tmp_path / "a").startswith("InvalidInput: ")
    assert "'dataset', 'gate', 'sft', 'srl', 'rlvr', 'evaluate'" in failure(tmp_path / "a")


def test_training_on_ones_own_records_and_verifier_needs_no_fork_of_the_project(tmp_path: Path) -> None:
    records, plugin = tmp_path / "records", tmp_path / "plugin"
    records.mkdir()
    plugin.mkdir()
    rows = [{"prompt": f"{b} then {a}", "steps": [a, "done"]} for a in "abcdefgh" for b in "abcdefgh"]
    (records / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (plugin / "mine.py").write_text(
        "def check(record, completion):\n    return completion.split() == [record.prompt[-1], 'done']\n"
    )
    write_manifest(records, "records")
    write_manifest(plugin, "plugin")
    from stepforge.contracts.jobs import Plugin

    own = {"domain": "mine", "code": Plugin(verifier="mine:check"), "plugin": plugin}
    job_folder(tmp_path / "d", DatasetWork(domain="mine"), records=records, **own)  # type: ignore[arg-type]
    data = forked.succeed(tmp_path / "d")
    job_folder(tmp_path / "g", GateWork(), data=data, **own)  # type: ignore[arg-type]
    gate = forked.succeed(tmp_path / "g")
    assert GateReport.model_validate_json((gate / "gate.json").read_bytes()).refusal == ""
    start = ScratchModel(hidden_size=32, layers=2, heads=2, context=16)
    sft = SftWork(steps=60, batch_size=16, learning_rate=5e-3)
    job_folder(tmp_path / "s", sft, start=start, data=data, gate=gate, **own)  # type: ignore[arg-type]
    model = forked.succeed(tmp_path / "s")
    srl = SrlWork(steps=4, max_new_tokens=4, asking="plain")
    job_folder(tmp_path / "r", srl, start=LocalModel(), data=data, gate=gate, model=model, **own)  # type: ignore[arg-type]
    model = forked.succeed(tmp_path / "r")
    job_folder(tmp_path / "e", EvaluateWork(samples=1, max_new_tokens=8), data=data, model=model, **own)  # type: ignore[arg-type]
    found = EvaluationReport.model_validate_json((forked.succeed(tmp_path / "e") / "evaluation.json").read_bytes())
    assert found.score("test_known", "greedy").mean >= 0.5


def test_a_job_runs_as_a_process_with_sagemakers_argument(world: World, tmp_path: Path) -> None:
    job_folder(tmp_path, GateWork(), plugin=world.plugin, data=world.data)
    assert GateReport.model_validate_json((run_job(tmp_path) / "gate.json").read_bytes()).passed
