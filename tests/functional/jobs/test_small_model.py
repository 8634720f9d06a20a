"""A Hugging Face directory of another maker's: SRL with thoughts and RLVR with adapters, asked through its template."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import copy_artifact, job_folder
from tests.support.small_model import write_small_model

from stepforge.contracts.jobs import Plugin
from stepforge.contracts.manifests import read_manifest, sha256_of, write_manifest
from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import (
    DatasetWork,
    EvaluateWork,
    GateWork,
    LocalModel,
    Lora,
    RlvrWork,
    SftWork,
    SrlWork,
    Work,
)
from stepforge_jobs.training import loop

LORA = Lora(r=4, alpha=8)
SHORT = {"warmup_steps": 0, "batch_prompts": 2, "group_size": 4, "checkpoint_every": 2, "lora": LORA}
SRL = SrlWork(steps=2, max_new_tokens=6, asking="chat", next_title=True, window=1, **SHORT)
RLVR = RlvrWork(
    steps=2, max_new_tokens=6, reward="partial", dynamic_sampling=True, held_out=2, learning_rate=1e-3, **SHORT
)
RULES = """
def check(record, completion):
    if completion.strip() == record.solution.strip() or completion.strip() == record.answer:
        return True
    return min(0.9, len(completion) / 100)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, world: World) -> dict[str, Path]:
    """A model, records with solutions as text, their verifier, dataset and gate."""
    root = tmp_path_factory.mktemp("own")
    model = write_small_model(root / "model")
    write_manifest(model, "model")
    rows = [
        {
            "prompt": f"{a} + {b} =",
            "solution": f"1. **Add** {a + b}\n2. **Say** {a + b}!\n3 more",
            "answer": f"{a + b}!",
        }
        for a in range(5)
        for b in range(8)
    ]
    for index, row in enumerate(rows):
        row["split"] = ("train", "rl", "rl", "test_known")[index % 4]
    for kind in ("records", "plugin"):
        (root / kind).mkdir()
    (root / "records" / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "plugin" / "small_rules.py").write_text(RULES)
    found = {"model": model, "plugin": root / "plugin", "records": root / "records"}
    for kind in ("records", "plugin"):
        write_manifest(found[kind], kind)  # type: ignore[arg-type]
    found["data"] = run(root / "d", DatasetWork(domain="mine"), found, "records")
    found["gate"] = run(root / "g", GateWork(), found, "data")
    return found


def run(base: Path, work: Work, own: dict[str, Path], *channels: str, model: Path | None = None) -> Path:
    given = {name: own[name] for name in (*channels, "plugin")} | ({} if model is None else {"model": model})
    start = LocalModel() if model is not None and work.type != "evaluate" else None
    job_folder(base, work, domain="mine", code=Plugin(verifier="small_rules:check"), start=start, **given)
    return forked.succeed(base)


def stage(folder: Path) -> StageReport:
    return StageReport.model_validate_json((folder / "run.json").read_bytes())


@pytest.fixture(scope="module")
def trained(own: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trained")
    srl = run(root / "srl", SRL, own, "data", "gate", model=own["model"])
    rlvr = run(root / "rlvr", RLVR, own, "data", "gate", model=srl)
    evaluation = EvaluateWork(samples=1, max_new_tokens=6, bootstrap=50)
    return {"srl": srl, "rlvr": rlvr, "evaluate": run(root / "e", evaluation, own, "data", model=rlvr)}


def test_the_way_a_model_is_asked_travels_with_it(own: dict[str, Path], trained: dict[str, Path]) -> None:
    assert [read_manifest(trained[name]).metadata["asking"] for name in ("srl", "rlvr")] == ["chat", "chat"]
    rows = [json.loads(line) for line in (trained["evaluate"] / "rows.ndjson").read_text().splitlines()]
    assert len(rows) == 20
    plain = copy_artifact(trained["rlvr"], trained["rlvr"].parent / "plain")
    write_manifest(plain, "model", metadata={"asking": "plain"})
    evaluation = EvaluateWork(samples=1, max_new_tokens=6, bootstrap=50)
    other = run(trained["rlvr"].parent / "e-plain", evaluation, own, "data", model=plain)
    assert (other / "rows.ndjson").read_text() != (trained["evaluate"] / "rows.ndjson").read_text()


def test_the_reports_say_what_was_dropped_asked_and_sampled(trained: dict[str, Path]) -> None:
    report = stage(trained["srl"])
    assert report.choices["parsing"]["solutions"] == 40
    assert report.choices["count"] == 10
    assert report.choices["instances"] == "steps 1 to N - 1 of N"
    assert "the last 1 steps before it, with the title" in report.choices["context"]
    assert {"kept_groups", "sampling_rounds", "batch_groups"} <= set(report.metrics)
    reported = stage(trained["rlvr"])
    assert reported.choices["held_out"].startswith("2 problems")
    wanted = {"graded", "unreadable", "verifier_failures", "length_ratio", "repetition", "hacking_signs"}
    assert wanted | {"held_out_accepted", "trained_reward_change"} <= set(reported.metrics)


def test_what_is_saved_is_a_whole_model_that_transformers_loads_and_that_changed(
    own: dict[str, Path], trained: dict[str, Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = AutoModelForCausalLM.from_pretrained(own["model"]).state_dict()
    for name in ("srl", "rlvr"):
        after = AutoModelForCausalLM.from_pretrained(trained[name]).state_dict()
        assert after.keys() == before.keys()
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        assert any("q_proj" in key for key in moved)
        assert any("down_proj" in key for key in moved)
        assert not any("norm" in key or "embed" in key for key in moved)
        assert AutoTokenizer.from_pretrained(trained[name]).chat_template is not None


def test_dynamic_sampling_resumes_to_the_same_bits(
    own: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    work = SRL.model_copy(update={"checkpoint_every": 1})
    whole = run(tmp_path / "whole", work, own, "data", "gate", model=own["model"])

    def die_in_the_second_step() -> None:
        original = loop.learning_rate

        def rate(asked: object, at: int) -> float:
            if at == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(asked, at)  # type: ignore[arg-type]

        loop.learning_rate = rate

    given = {name: own[name] for name in ("data", "gate", "plugin", "model")}
    job_folder(
        tmp_path / "cut", work, domain="mine", code=Plugin(verifier="small_rules:check"), start=LocalModel(), **given
    )
    assert forked.run(tmp_path / "cut", prepare=die_in_the_second_step) == -signal.SIGKILL
    cut = forked.succeed(tmp_path / "cut")
    assert '"event": "resumed"' in (tmp_path / "cut" / "log.txt").read_text()
    assert sha256_of(cut / "model.safetensors") == sha256_of(whole / "model.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may do it")
def test_4_bits_without_a_gpu_are_refused_with_what_is_missing(own: dict[str, Path], tmp_path: Path) -> None:
    work = SftWork(steps=1, lora=Lora(bits=4))
    given = {name: own[name] for name in ("data", "gate", "plugin", "model")}
    job_folder(tmp_path, work, domain="mine", code=Plugin(verifier="small_rules:check"), start=LocalModel(), **given)
    assert forked.run(tmp_path) == 1
    text = (tmp_path / "output" / "failure").read_text()
    assert "lora.bits = 4 needs a CUDA device and the package bitsandbytes, and this job has no CUDA device" in text


def test_a_model_that_never_thinks_learns_nothing_and_the_report_says_why(own: dict[str, Path], tmp_path: Path) -> None:
    work = SrlWork(steps=1, max_new_tokens=4, batch_prompts=2, group_size=2)
    report = stage(run(tmp_path, work, own, "data", "gate", model=own["model"]))
    assert (report.tokens, report.choices["asking"]) == (0, "think")
    assert (report.metrics["format_failures"], report.metrics["reward"]) == (1.0, -1.0)
    assert (report.metrics["kept_groups"], report.metrics["sampling_rounds"]) == (0.0, 4.0)
