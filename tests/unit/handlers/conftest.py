"""S3 and Step Functions by moto, SageMaker by a fake, and the handlers as they are deployed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import ArtifactRef, JobOutcome
from stepforge.contracts.manifests import MANIFEST, FileEntry, Manifest
from stepforge.contracts.names import Keys
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.registry import CHAMPION_GATE, PackageMetadata, Promotion
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.work import WORK_TYPES, DatasetWork, SftWork, SrlWork, WorkType
from stepforge.machines.deployment import Deployment
from tests.fakes import REGION_ARN, FakeSageMaker

from .promoted import FILES, GROUP, ROWS, SCORES, verified

BUCKET = "stepforge-test"
TRAINED = "srl-" + "a" * 12 + "-a0"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/0"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/stepforge-train@sha256:" + "0" * 64


@pytest.fixture(scope="package")
def clients() -> Iterator[dict[str, Any]]:
    """Made once: a client costs a tenth of a second. moto takes every call, and credentials are made up."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        with mock_aws():
            made = {service: boto3.client(service) for service in ("s3", "stepfunctions")}
            made["s3"].create_bucket(Bucket=BUCKET)
            yield made


@pytest.fixture
def s3(clients: dict[str, Any]) -> Any:
    """With an empty bucket."""
    client = clients["s3"]
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    return client


@pytest.fixture
def sagemaker() -> FakeSageMaker:
    return FakeSageMaker()


@pytest.fixture
def states(clients: dict[str, Any]) -> Any:
    return clients["stepfunctions"]


@pytest.fixture
def machine_arn(states: Any) -> Iterator[str]:
    wait = '{"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 600, "End": true}}}'
    role = "arn:aws:iam::123456789012:role/r"
    arn = states.create_state_machine(name="stepforge-test-promote", definition=wait, roleArn=role)["stateMachineArn"]
    yield arn
    states.delete_state_machine(stateMachineArn=arn)


def put_artifact(s3: Any, job: str, kind: Any, files: dict[str, bytes]) -> ArtifactRef:
    """Write an artifact as a job of this name would have."""
    import hashlib

    prefix = Keys.artifact(job)
    for path, data in files.items():
        s3.put_object(Bucket=BUCKET, Key=prefix + path, Body=data)
    manifest = Manifest(
        kind=kind,
        files=tuple(
            FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            for path, data in sorted(files.items())
        ),
    )
    s3.put_object(Bucket=BUCKET, Key=prefix + MANIFEST, Body=canonical_json(manifest))
    return ArtifactRef(uri=f"s3://{BUCKET}/{prefix}", sha256=manifest.sha256)


def outcome(kind: WorkType, artifact: ArtifactRef | None = None, *, name: str | None = None) -> JobOutcome:
    name = name or f"{kind}-{'a' * 12}-a0"
    artifact = artifact or ArtifactRef(uri=f"s3://{BUCKET}/{Keys.artifact(name)}", sha256="1" * 64)
    return JobOutcome(
        name=name, arn=f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}", type=kind, artifact=artifact
    )


@pytest.fixture
def pipeline() -> PipelineSpec:
    return PipelineSpec(
        domain="facial",
        dataset=DatasetWork(domain="facial"),
        stages=(SftWork(), SrlWork(asking="plain")),
        code=dict.fromkeys(WORK_TYPES, "c" * 64),
        image=IMAGE,
        group="stepforge-facial",
    )


@pytest.fixture
def started(s3: Any, pipeline: PipelineSpec) -> PipelineState:
    """The pipeline in its bucket, and the state that it starts with."""
    key = Keys.pipeline(pipeline.identity)
    s3.put_object(Bucket=BUCKET, Key=key, Body=canonical_json(pipeline))
    return PipelineState(pipeline_uri=f"s3://{BUCKET}/{key}", pipeline_sha256=pipeline.identity)


@pytest.fixture
def weights(s3: Any) -> ArtifactRef:
    return put_artifact(s3, TRAINED, "model", FILES)


@pytest.fixture
def promotion(sagemaker: FakeSageMaker, s3: Any, weights: ArtifactRef) -> Promotion:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    report = EvaluationReport(
        spec_sha256="0" * 64, model_sha256=weights.sha256, manifest_sha256="4" * 64, scores=SCORES
    )
    files = {"rows.ndjson": rows, "evaluation.json": canonical_json(report)}
    evaluation = put_artifact(s3, "evaluate-" + "a" * 12 + "-a0", "evaluation", files)
    metadata = PackageMetadata(
        pipeline_sha256="1" * 64,
        model_sha256=weights.sha256,
        evaluation_sha256=evaluation.sha256,
        evaluation_uri=evaluation.uri,
        dataset_sha256="4" * 64,
        training_job_arn=f"{REGION_ARN}:training-job/{TRAINED}",
        domain="facial",
    )
    sagemaker.groups.add(GROUP)
    sagemaker.add_job(TRAINED, "0" * 64, OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/jobs"})
    source = {"S3DataSource": {"S3Uri": weights.uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}
    arn = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties={**metadata.properties(), CHAMPION_GATE: "first"},
        InferenceSpecification={"Containers": [{"Image": IMAGE, "ModelDataSource": source}]},
    )["ModelPackageArn"]
    return Promotion(package_arn=arn, group=GROUP, version=1, event_id="e" * 64)


@pytest.fixture
def deployment(sagemaker: FakeSageMaker, s3: Any, promotion: Promotion) -> Deployment:
    return verified(sagemaker, s3, promotion)
