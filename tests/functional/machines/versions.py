"""Versions in the registry without a training: weights, an evaluation of them, and a package that names both."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stepforge.contracts.base import canonical_json
from stepforge.contracts.economics import LedgerEntry
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import describe_folder, put_manifest
from stepforge.contracts.names import Keys, package_group
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import CHAMPION_GATE, PackageMetadata
from stepforge.contracts.reports import EvaluationReport, Interval, Score

from .conftest import IMAGE, Deployed
from .fake_image import answer

DATA = "d" * 64
SCORES = (
    Score(
        split=TEST_SPLITS[0], decoding="greedy", metric="accepted", value=Interval(mean=0.5, low=0.4, high=0.6, count=8)
    ),
)


def register_version(deployed: Deployed, folder: Path, domain: str, name: str, **config: object) -> tuple[str, str]:
    """A version that waits for approval: its ARN and the digest of its weights. `config` is the served model's."""
    model = _put(deployed, folder / name / "model", "model", f"sft-{name}-a0", {
        "model.safetensors": name.encode(), "config.json": json.dumps({"liar": False, **config}).encode(),
    })  # fmt: skip
    report = EvaluationReport(spec_sha256="0" * 64, model_sha256=model.sha256, manifest_sha256=DATA, scores=SCORES)
    rows = [
        {"decoding": "greedy", "split": TEST_SPLITS[0], "prompt": f"p{n}", "completion": answer(f"p{n}", model.sha256),
         "tokens": 3}
        for n in range(8)
    ]  # fmt: skip
    evaluation = _put(deployed, folder / name / "evaluation", "evaluation", f"evaluate-{name}-a0", {
        "evaluation.json": canonical_json(report),
        "rows.ndjson": "".join(json.dumps(row) + "\n" for row in rows).encode(),
    })  # fmt: skip
    metadata = PackageMetadata(
        pipeline_sha256="1" * 64, model_sha256=model.sha256, evaluation_sha256=evaluation.sha256,
        evaluation_uri=evaluation.uri, dataset_sha256=DATA, domain=domain,
        training_job_arn=_booked(deployed, f"sft-{name}-a0", domain),
    )  # fmt: skip
    sagemaker, group = deployed.aws.client("sagemaker"), package_group(domain, "local")
    with suppress(sagemaker.exceptions.ClientError):
        sagemaker.create_model_package_group(ModelPackageGroupName=group)
    source = {"S3DataSource": {"S3Uri": model.uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}
    made = sagemaker.create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="PendingManualApproval",
        ModelLifeCycle={"Stage": "Development", "StageStatus": "PendingApproval"},
        CustomerMetadataProperties={**metadata.properties(), CHAMPION_GATE: "first"},
        InferenceSpecification={
            "Containers": [{"Image": IMAGE, "ModelDataSource": source}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    return made["ModelPackageArn"], model.sha256


def _booked(deployed: Deployed, name: str, domain: str) -> str:
    """The ARN of a job that nobody ran: as the ledger would have it, once SageMaker has forgotten the job."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    entry = LedgerEntry(
        arn=f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{name}", job=name, type="sft", stage="sft",
        domain=domain, region="us-east-1", status="Completed", created=at, ended=at, instance_type="ml.m5.large",
        work_sha256="0" * 64, instance_count=1, units=1,
    )  # fmt: skip
    key = Keys.ledger("2026-01-02", name)
    deployed.aws.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=canonical_json(entry))
    return entry.arn


def _put(deployed: Deployed, folder: Path, kind: str, job: str, files: dict[str, bytes]) -> ArtifactRef:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = put_manifest(folder, describe_folder(folder, kind))  # type: ignore[arg-type]
    prefix = Keys.artifact(job)
    for path in folder.iterdir():
        deployed.aws.client("s3").upload_file(str(path), deployed.bucket, prefix + path.name)
    return ArtifactRef(uri=f"s3://{deployed.bucket}/{prefix}", sha256=manifest.sha256)
