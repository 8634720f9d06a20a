"""What is served is what was approved, byte for byte; a package that cannot vouch for itself is refused."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepforge.contracts.base import canonical_json, digest
from stepforge.contracts.economics import LedgerEntry
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import PICKLES
from stepforge.contracts.names import Keys, split_uri
from stepforge.contracts.registry import CHAMPION_GATE, SERVES_SINCE, Promotion
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import ArtifactRefused
from stepforge.machines.deployment import (
    check_weights,
    serving_name,
)
from tests.fakes import REGION_ARN, TUNE, FakeSageMaker

from .conftest import BUCKET, IMAGE, TRAINED, put_artifact
from .promoted import FILES, FLEET, ROWS, SCORES, verified


def test_sound_weights_are_let_through(s3: Any, weights: ArtifactRef) -> None:
    check_weights(s3, weights.uri, weights.sha256)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_one_altered_byte_is_refused_and_its_file_named(s3: Any, weights: ArtifactRef, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FILES)))
    at = data.draw(st.integers(0, len(FILES[path]) - 1))
    altered = bytearray(FILES[path])
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    bucket, prefix = split_uri(weights.uri)
    s3.put_object(Bucket=bucket, Key=prefix + path, Body=bytes(altered))
    with pytest.raises(Exception, match=f"{path} has SHA-256"):
        check_weights(s3, weights.uri, weights.sha256)
    s3.put_object(Bucket=bucket, Key=prefix + path, Body=FILES[path])


@pytest.mark.parametrize("ending", PICKLES)
def test_a_pickle_is_refused_by_name_even_where_the_manifest_knows_it(s3: Any, ending: str) -> None:
    artifact = put_artifact(s3, "srl-" + "b" * 12 + "-a0", "model", {**FILES, f"deep/state{ending.upper()}": b"x"})
    with pytest.raises(ArtifactRefused, match=f"deep/state{ending.upper()}"):
        check_weights(s3, artifact.uri, artifact.sha256)


def test_a_file_that_was_added_or_lost_is_refused(s3: Any, weights: ArtifactRef) -> None:
    bucket, prefix = split_uri(weights.uri)
    s3.put_object(Bucket=bucket, Key=prefix + "tokenizer.json", Body=b"{}")
    with pytest.raises(ArtifactRefused, match=r"tokenizer\.json is not in the manifest"):
        check_weights(s3, weights.uri, weights.sha256)
    s3.delete_object(Bucket=bucket, Key=prefix + "tokenizer.json")
    s3.delete_object(Bucket=bucket, Key=prefix + "config.json")
    with pytest.raises(ArtifactRefused, match=r"config\.json is missing"):
        check_weights(s3, weights.uri, weights.sha256)


def test_an_artifact_without_safetensors_is_refused(s3: Any) -> None:
    artifact = put_artifact(s3, "srl-" + "c" * 12 + "-a0", "model", {"config.json": b"{}"})
    with pytest.raises(ArtifactRefused, match="no weights to serve"):
        check_weights(s3, artifact.uri, artifact.sha256)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ModelApprovalStatus": "Rejected"}, "is Rejected by now"),
        ({"CustomerMetadataProperties": {}}, "not registered by stepforge"),
    ],
    ids=["rejected", "foreign"],
)
def test_a_package_that_may_not_serve_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, change: dict[str, Any], reason: str
) -> None:
    sagemaker.packages[promotion.package_arn] |= change
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing", "does not exist"),
        ("altered", "has digest"),
        ("of other weights", "is of the model"),
        ("on other data", "is of the dataset"),
        ("without answers", "has no greedy row"),
        ("without a score", "has no score of 'accepted' on any of test_"),
    ],
)
def test_a_package_without_a_sound_evaluation_of_its_own_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, weights: ArtifactRef, what: str, reason: str
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    report = {"spec_sha256": "0" * 64, "model_sha256": weights.sha256, "manifest_sha256": "4" * 64, "scores": SCORES}
    rows = canonical_json(ROWS[0])
    if what == "of other weights":
        report["model_sha256"] = "9" * 64
    elif what == "on other data":
        report["manifest_sha256"] = "9" * 64
    elif what == "without a score":
        report["scores"] = ()
    elif what == "without answers":
        rows = canonical_json(ROWS[1])
    files = {"rows.ndjson": rows, "evaluation.json": canonical_json(EvaluationReport.model_validate(report))}
    evaluation = put_artifact(s3, "evaluate-" + "b" * 12 + "-a0", "evaluation", files)
    properties |= {"evaluation_uri": evaluation.uri, "evaluation_sha256": evaluation.sha256}
    if what == "missing":
        properties["evaluation_uri"] = f"s3://{BUCKET}/jobs/nowhere/"
    elif what == "altered":
        properties["evaluation_sha256"] = "8" * 64
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize("verdict", ["first", "better", "not better"])
def test_who_approves_overrules_the_champion_gate_and_the_execution_says_what_it_said(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, verdict: str
) -> None:
    sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"][CHAMPION_GATE] = verdict
    assert verified(sagemaker, s3, promotion).champion_gate == verdict


@pytest.mark.parametrize("verdict", [None, "", "fine"])
def test_a_package_that_nobody_compared_is_refused_with_the_remedy(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, verdict: str | None
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    del properties[CHAMPION_GATE]
    properties |= {} if verdict is None else {CHAMPION_GATE: verdict}
    with pytest.raises(ArtifactRefused, match=r"nobody compared it\. Delete the version and run its pipeline again"):
        verified(sagemaker, s3, promotion)


def test_a_version_that_served_before_verdicts_were_kept_may_serve_again(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    del properties[CHAMPION_GATE]
    properties[SERVES_SINCE] = "2026-01-02T00:00:00+00:00"
    assert verified(sagemaker, s3, promotion).champion_gate is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"TrainingJobStatus": "Failed"}, "has the status 'Failed'"),
        ({"TrainingJobArn": f"{REGION_ARN}9:training-job/{TRAINED}"}, "has the ARN"),
        ({"OutputDataConfig": {"S3OutputPath": "s3://elsewhere/jobs"}}, "has the output path 's3://elsewhere/jobs'"),
    ],
    ids=["failed", "of another account", "wrote elsewhere"],
)
def test_weights_that_the_named_job_did_not_make_are_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, change: dict[str, Any], reason: str
) -> None:
    sagemaker.jobs[TRAINED] |= change
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


def test_a_package_that_names_another_job_is_refused(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> None:
    other = f"srl-{'b' * 12}-a0"
    sagemaker.add_job(other, "0" * 64, OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/jobs"})
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    properties["training_job_arn"] = f"{REGION_ARN}:training-job/{other}"
    with pytest.raises(ArtifactRefused, match=f"is not what the training job '{other}' wrote"):
        verified(sagemaker, s3, promotion)


def test_of_a_job_that_was_deleted_the_ledgers_word_counts(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion
) -> None:
    arn = sagemaker.jobs.pop(TRAINED)["TrainingJobArn"]
    with pytest.raises(ArtifactRefused, match="does not exist, and the ledger does not know it"):
        verified(sagemaker, s3, promotion)
    for status in ("Stopped", "Completed"):
        at = datetime(2026, 1, 2, tzinfo=UTC)
        entry = LedgerEntry(
            arn=arn, job=TRAINED, type="srl", stage="srl", domain="facial", region="us-east-1", status=status,
            created=at, ended=at, instance_type="ml.m5.large", work_sha256="0" * 64, instance_count=1, units=1,
        )  # fmt: skip
        s3.put_object(Bucket=BUCKET, Key=Keys.ledger("2026-01-02", TRAINED), Body=canonical_json(entry))
        if status == "Stopped":
            with pytest.raises(ArtifactRefused, match="has the status 'Stopped'"):
                verified(sagemaker, s3, promotion)
    assert verified(sagemaker, s3, promotion).artifact.uri.endswith(f"{TRAINED}/output/model/")


@pytest.fixture
def tune(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> dict[str, Any]:
    """The request of a provider's model, in whose place the package then stands."""
    request = {"spec": {"provider": "sagemaker", "training": {"sha256": "4" * 64}}, "heldout_sha256": "5" * 64}
    names = {"provider": "sagemaker", "job": TUNE["external_job"], "model": TUNE["external_model"]}
    data, model = canonical_json(request), digest(names)
    report = EvaluationReport(spec_sha256="0" * 64, model_sha256=model, manifest_sha256="5" * 64, scores=SCORES)
    files = {"evaluation.json": canonical_json(report)}
    evaluation = put_artifact(s3, "evaluate-" + "c" * 12 + "-a0", "evaluation", files)
    s3.put_object(Bucket=BUCKET, Key="finetune/requests/1.json", Body=data)
    package = sagemaker.packages[promotion.package_arn]
    package["CustomerMetadataProperties"] |= TUNE | {
        "external_request_uri": f"s3://{BUCKET}/finetune/requests/1.json", "training_job_arn": TUNE["external_job"],
        "evaluation_uri": evaluation.uri, "evaluation_sha256": evaluation.sha256,
        "pipeline_sha256": hashlib.sha256(data).hexdigest(), "model_sha256": model,
    }  # fmt: skip
    del package["InferenceSpecification"]
    return request


def test_a_providers_model_is_let_through_with_its_own_request_and_evaluation(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, tune: dict[str, Any]
) -> None:
    found = verified(sagemaker, s3, promotion)
    assert (found.external, found.champion_gate) == (True, "first")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"external_model": "another"}, "the package names the model"),
        ({"external_job": "another"}, "the package names the job another"),
        ({"external_provider": "openai"}, "the package names the provider openai"),
        ({"dataset_sha256": "7" * 64}, "the package names the training data 7777"),
        ({"external_provider": "openai", "pipeline_sha256": "7" * 64}, "has SHA-256"),
        ({"champion_gate": "?"}, "nobody compared it"),
    ],
    ids=["model", "job", "provider", "training data", "request", "verdict"],
)
def test_a_providers_model_whose_lineage_is_anothers_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, tune: dict[str, Any], change: dict[str, str], reason: str
) -> None:
    sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"] |= change
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_sha256": "9" * 64}, "is of the model 9999"),
        ({"manifest_sha256": "4" * 64}, "is of the dataset 4444"),
        ({"scores": ()}, "has no score"),
    ],
    ids=["another model", "other records", "no score"],
)
def test_a_providers_model_is_evaluated_itself_on_what_its_request_held_out(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, tune: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    own = {"model_sha256": properties["model_sha256"], "manifest_sha256": tune["heldout_sha256"], "scores": SCORES}
    report = EvaluationReport.model_validate({"spec_sha256": "0" * 64, **own, **change})
    files = {"evaluation.json": canonical_json(report)}
    evaluation = put_artifact(s3, "evaluate-" + "d" * 12 + "-a0", "evaluation", files)
    properties |= {"evaluation_uri": evaluation.uri, "evaluation_sha256": evaluation.sha256}
    with pytest.raises(ArtifactRefused, match=reason):
        verified(sagemaker, s3, promotion)


@pytest.mark.parametrize("image", ["repository/serve@sha256:0", "repository/serve", "@sha256:" + "0" * 64])
def test_an_image_whose_digest_is_none_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, image: str
) -> None:
    sagemaker.packages[promotion.package_arn]["InferenceSpecification"]["Containers"][0]["Image"] = image
    with pytest.raises(ArtifactRefused, match="not pinned"):
        verified(sagemaker, s3, promotion)


def test_an_image_by_tag_is_refused(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> None:
    package = sagemaker.packages[promotion.package_arn]
    package["InferenceSpecification"]["Containers"][0]["Image"] = "repository/serve:latest"
    with pytest.raises(ArtifactRefused, match="not pinned"):
        verified(sagemaker, s3, promotion)


@given(st.from_regex(r"\Astepforge-[a-z0-9](-?[a-z0-9]){0,42}\Z"), st.integers(1, 99_999))
def test_a_serving_name_is_one_that_sagemaker_takes(group: str, version: int) -> None:
    promotion = Promotion(package_arn="arn", group=group, version=version, event_id="e" * 64)
    name = serving_name(promotion, "1" * 64, IMAGE, FLEET)
    assert len(name) <= 63
    assert "--" not in name
    assert name != serving_name(promotion, "2" * 64, IMAGE, FLEET)
