"""A run is read through its jobs; every file is checked, and what is not there yet is left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.cloud import BUCKET, Cloud, lines
from tests.unit.report.sample import ACCOUNT, CHAMPION, OURS, evaluation, sha

from stepforge.contracts.base import canonical_json
from stepforge.contracts.previews import Preview
from stepforge.contracts.reports import GateReport, StageReport
from stepforge.errors import IntegrityError, InvalidInput
from stepforge.report import collect, render, write_report
from stepforge.report.reading import parse_metrics

VERSION = f"{ACCOUNT}:model-package/stepforge-facial/7"
ROWS: list[dict[str, Any]] = [
    {"record": f"r{i}", "split": "test_new", "decoding": "greedy", "sample": 0, "prompt": "p", "completion": f"c{i}",
     "tokens": 3, "accepted": i % 2 == 0, "reward": 1.0, "partial": 1.0, "exact_match": None,
     "failed_rules": [] if i % 2 == 0 else ["units.prototype"], "reason": "did not end" if i == 5 else ""}
    for i in range(8)
]  # fmt: skip


def trained(name: str, type_: Any, parents: tuple[str, ...]) -> dict[str, bytes]:
    report = StageReport(
        spec_sha256=sha(name), name=name, type=type_, steps=2, seconds=1.5, parameters=10, tokens=20, parents=parents,
        choices={"schedule": "linear"}, versions={"python": "3.11"}, metrics={"loss": 0.5},
    )  # fmt: skip
    metrics = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan"), "kl": 0.1}]
    return {"run.json": canonical_json(report), "metrics.jsonl": lines(metrics), "model.safetensors": b"weights"}


def through_stages(cloud: Cloud) -> list[str]:
    """Dataset, gate and all stages done. Returns the models' digests."""
    cloud.end(counts={"train": 64, "test_new": 200}, verifier="facial@1")
    dataset = cloud.next().spec.inputs["data"].sha256
    gate = GateReport(manifest_sha256=dataset, passed=True, checked={"schema": 264})
    cloud.end(files={"gate.json": canonical_json(gate)})
    models: list[str] = []
    for stage in cloud.spec.stages:
        cloud.end(files=trained(stage.name, stage.type, tuple(models)))
        models.append(cloud.next().spec.inputs["model"].sha256)
    return models


def evaluated(cloud: Cloud, more: dict[str, bytes] | None = None) -> None:
    models = through_stages(cloud)
    dataset = cloud.next().spec.inputs["data"].sha256
    report = evaluation("x", OURS).model_copy(update={"model_sha256": models[-1], "manifest_sha256": dataset})
    cloud.end(files={"evaluation.json": canonical_json(report), "rows.ndjson": lines(ROWS), **(more or {})})


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    cloud = Cloud()
    previews = [
        Preview(record="r0", split="test_new", accepted=True, completion="c0", file="previews/0.html"),
        Preview(record="r1", split="test_new", accepted=False, completion="c1", failed_rules=("units.prototype",)),
    ]
    listed = json.dumps([preview.model_dump(mode="json") for preview in previews]).encode()
    evaluated(cloud, {"previews.json": listed, "previews/0.html": "<svg>é</svg>".encode()})
    champion = f"{ACCOUNT}:model-package/stepforge-facial/6"
    folder = f"s3://{BUCKET}/jobs/old/output/model/"
    sha256 = cloud.s3.put_artifact(
        folder, "evaluation", {"evaluation.json": canonical_json(evaluation("old", CHAMPION))}
    )
    cloud.sagemaker.packages[champion] = {
        "CustomerMetadataProperties": {"evaluation_uri": folder, "evaluation_sha256": sha256}
    }
    cloud.sagemaker.packages[VERSION] = {
        "ModelPackageArn": VERSION,
        "ModelPackageGroupName": "stepforge-facial",
        "ModelPackageVersion": 7,
        "ModelApprovalStatus": "PendingManualApproval",
        "CreationTime": datetime(2026, 3, 2, tzinfo=UTC),
    }
    output = {
        "package_arn": VERSION,
        "comparison": {"better": True, "champion": champion, "reasons": ["better on test_new/greedy"]},
    }
    cloud.states.end(cloud.arn, "SUCCEEDED", output=output)

    data = collect(cloud.run, prices={"ml.g5.xlarge": 3.6})

    assert (data.status, data.environment, data.later) == ("SUCCEEDED", "dev", ())
    assert [job.stage for job in data.jobs] == ["dataset", "gate", "base", "sft", "srl", "rlvr", "evaluate"]
    assert data.dataset is not None
    assert data.dataset.counts == {"train": 64, "test_new": 200}
    assert data.stages[0].curves["loss"][0] == (1.0, 1.0)
    assert data.stages[0].curves["kl"] == ((2.0, 0.1),)
    assert data.examples[0].fragment == "<svg>é</svg>"
    assert data.examples[1].fragment is None
    assert (data.completions, data.unreadable) == (8, {"did not end": 1})
    assert data.references[0].name == "6"
    assert data.jobs[0].attempts[0].instance_seconds == 200
    assert data.command == "stepforge run train --domain facial --env dev"
    assert data.package is not None
    assert (data.package.reference, data.package.state) == ("facial/7", "PendingManualApproval")
    text = write_report(cloud.run, tmp_path / "r.html", prices={"ml.g5.xlarge": 3.6}).read_text()
    assert text == render(data)
    assert "Better than the champion on 4 of 6" in text
    assert "$1.40" in text, "7 jobs x 100 s x 2 instances at 3.6 an hour"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_without_previews_the_rows_give_examples_as_text() -> None:
    cloud = Cloud()
    evaluated(cloud)
    previews = [example.preview for example in collect(cloud.run).examples]
    assert [preview.accepted for preview in previews] == [True] * 4 + [False] * 4
    assert all(preview.file is None for preview in previews)


def test_a_run_under_way_gives_what_there_is() -> None:
    cloud = Cloud()
    cloud.end(counts={"train": 64})
    data = collect(cloud.run)
    assert [(job.stage, job.status) for job in data.jobs] == [("dataset", "Completed"), ("gate", "Absent")]
    assert data.later == ("base", "sft", "srl", "rlvr", "evaluate")
    assert "The stage gate has not started." in render(data)


def test_a_failed_attempt_is_shown_and_billed_with_the_one_after_it() -> None:
    cloud = Cloud()
    cloud.end("Failed")
    cloud.states.end(cloud.arn, "FAILED", error="JobFailed", cause="it broke")
    failed = collect(cloud.run)
    assert (failed.jobs[0].status, failed.jobs[0].name[-3:]) == ("Failed", "-a0")
    assert "AlgorithmError: it broke" in render(failed)
    cloud.end("Completed")
    assert [attempt.status for attempt in collect(cloud.run).jobs[0].attempts] == ["Failed", "Completed"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_a_file_that_was_altered_is_refused_by_name(name: str) -> None:
    cloud = Cloud()
    through_stages(cloud)
    key = next(key for key in cloud.s3.objects if key.endswith(name))
    cloud.s3.objects[key] += b" "
    with pytest.raises(IntegrityError, match=name):
        collect(cloud.run)


def test_a_malformed_line_of_metrics_is_named() -> None:
    with pytest.raises(InvalidInput, match="line 2"):
        parse_metrics(b'{"step": 1, "loss": 2}\n{"loss": 2}\n')


def test_a_version_that_is_gone_is_said_and_there_is_nothing_to_decide() -> None:
    cloud = Cloud()
    evaluated(cloud)
    comparison = {"better": True, "reasons": ["r"]}
    cloud.states.end(cloud.arn, "SUCCEEDED", output={"comparison": comparison, "package_arn": VERSION})
    data = collect(cloud.run)
    assert data.package is None
    assert f"{VERSION} of this run is no longer in the registry" in data.notes[0]
    assert "nothing to approve or reject" in render(data)


@pytest.mark.parametrize(
    ("target", "reason"), [(".", "is a folder: name a file in it"), ("fodler/r.html", "the folder .*fodler' .*make it")]
)
def test_a_report_that_cannot_be_written_there_is_refused_and_leaves_nothing(
    tmp_path: Path, target: str, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        write_report(Cloud().run, tmp_path / target)
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        write_report(Cloud().run, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_a_champion_that_is_gone_is_said() -> None:
    cloud = Cloud()
    evaluated(cloud)
    comparison = {"better": True, "champion": f"{ACCOUNT}:model-package/stepforge-facial/1", "reasons": ["r"]}
    cloud.states.end(cloud.arn, "SUCCEEDED", output={"comparison": comparison})
    data = collect(cloud.run)
    assert data.references == ()
    assert "no longer in the registry" in data.notes[0]


def test_a_base_that_is_given_stands_beside_the_champion() -> None:
    cloud = Cloud()
    evaluated(cloud)
    assert [r.role for r in collect(cloud.run, base=evaluation("base", CHAMPION)).references] == ["base"]
