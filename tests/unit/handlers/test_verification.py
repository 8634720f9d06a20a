"""What is served is what was approved, byte for byte; a package that cannot vouch for itself is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import PICKLES
from stepforge.contracts.names import split_uri
from stepforge.contracts.registry import Promotion
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import ArtifactRefused
from stepforge.machines.deployment import (
    check_weights,
    serving_name,
)
from tests.fakes import FakeSageMaker

from .conftest import BUCKET, IMAGE, put_artifact
from .promoted import FILES, FLEET, ROWS, verified


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
    ],
)
def test_a_package_without_a_sound_evaluation_of_its_own_is_refused(
    sagemaker: FakeSageMaker, s3: Any, promotion: Promotion, weights: ArtifactRef, what: str, reason: str
) -> None:
    properties = sagemaker.packages[promotion.package_arn]["CustomerMetadataProperties"]
    report = {"spec_sha256": "0" * 64, "model_sha256": weights.sha256, "manifest_sha256": "4" * 64, "scores": ()}
    rows = canonical_json(ROWS[0])
    if what == "of other weights":
        report["model_sha256"] = "9" * 64
    elif what == "on other data":
        report["manifest_sha256"] = "9" * 64
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
