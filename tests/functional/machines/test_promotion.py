"""An approval, to the endpoint that answers, or that goes on answering as it did."""

from __future__ import annotations

import json

import pytest

from stepforge.contracts.names import endpoint_name, split_uri
from stepforge.contracts.registry import TrainOutput

from .conftest import GROUP, Deployed, candidate_exists
from .fake_image import LIAR


def ask(deployed: Deployed, prompt: str) -> dict[str, object]:
    answer = deployed.aws.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint_name(GROUP),
        ContentType="application/json",
        Body=json.dumps({"records": [{"prompt": prompt}]}),
    )
    return json.loads(answer["Body"].read())


@pytest.fixture(scope="module")
def trained(deployed: Deployed) -> TrainOutput:
    """Of this file alone: what all tests share may serve already, and is then promoted by nobody."""
    ended = deployed.train(deployed.pipeline(seed=315))
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


def test_an_approval_puts_the_model_behind_the_endpoint(deployed: Deployed, trained: TrainOutput) -> None:
    ended = deployed.approve(trained.package_arn)
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    assert ask(deployed, "hello")["model_sha256"] == trained.stages[-1].artifact.sha256
    package = deployed.package(trained.package_arn)
    assert package["ModelLifeCycle"]["Stage"] == "Production"
    assert package["CustomerMetadataProperties"]["promotion"] == "deployed"
    assert not candidate_exists(deployed)


def test_a_model_that_answers_otherwise_leaves_the_old_one_answering(deployed: Deployed, trained: TrainOutput) -> None:
    if deployed.package(trained.package_arn).get("ModelLifeCycle", {}).get("Stage") != "Production":
        deployed.approve(trained.package_arn)
    liar = TrainOutput.model_validate_json(deployed.train(deployed.pipeline(seed=315, rate=LIAR, stages=1))["output"])
    assert liar.comparison.champion == trained.package_arn
    ended = deployed.approve(liar.package_arn)
    assert (ended["status"], ended["error"]) == ("FAILED", "SmokeFailed")
    assert ask(deployed, "hello")["model_sha256"] == trained.stages[-1].artifact.sha256
    assert not candidate_exists(deployed)
    package = deployed.package(liar.package_arn)
    assert package["CustomerMetadataProperties"]["promotion"] == "failed"
    assert "nonsense" in package["ApprovalDescription"]


def test_an_altered_artifact_is_refused_with_the_reason(deployed: Deployed) -> None:
    output = TrainOutput.model_validate_json(deployed.train(deployed.pipeline(seed=30, stages=1))["output"])
    bucket, prefix = split_uri(output.stages[-1].artifact.uri)
    deployed.aws.client("s3").put_object(Bucket=bucket, Key=prefix + "model.safetensors", Body=b"?")
    ended = deployed.approve(output.package_arn)
    assert (ended["status"], ended["error"]) == ("FAILED", "ArtifactRefused")
    assert "model.safetensors has SHA-256" in ended["cause"]
    assert deployed.package(output.package_arn)["CustomerMetadataProperties"]["promotion"] == "refused"
