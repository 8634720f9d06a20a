"""Where a version comes from: a training job that made these very weights, and the champion gate's recorded word."""

from __future__ import annotations

import json
from typing import Any, get_args

from stepforge.absence import existing
from stepforge.artifacts import folder, read_bytes
from stepforge.contracts.base import Sha256, digest
from stepforge.contracts.economics import LedgerEntry
from stepforge.contracts.names import Keys, split_uri
from stepforge.contracts.registry import CHAMPION_GATE, SERVES_SINCE, ExternalLineage, GateVerdict, PackageMetadata
from stepforge.errors import ArtifactRefused


def check_verdict(properties: dict[str, str]) -> GateVerdict | None:
    """What the champion gate said when the version was registered.

    `not better` is no obstacle: whoever approves has read it, and it is theirs to overrule. None for a version that an
    earlier release promoted, which kept no verdict. Raises ArtifactRefused where nobody compared the version.
    """
    found = properties.get(CHAMPION_GATE)
    for verdict in get_args(GateVerdict):
        if verdict == found:
            return verdict  # type: ignore[no-any-return]
    if found is None and SERVES_SINCE in properties:
        return None
    raise ArtifactRefused(
        f"the package records {found!r} as the champion gate's verdict, none of {', '.join(get_args(GateVerdict))}: "
        "nobody compared it. Delete the version and run its pipeline again: its jobs are adopted, and it is "
        "registered with the comparison"
    )


def check_job(sagemaker: Any, s3: Any, metadata: PackageMetadata, uri: str) -> None:
    """The training job that the package names is done, and wrote what lies at `uri`.

    SageMaker's word counts; of a job that was deleted there, the ledger's. Raises ArtifactRefused.
    """
    name = metadata.training_job_arn.rpartition("/")[2]
    bucket, key = split_uri(folder(uri))
    if key != Keys.artifact(name):
        raise ArtifactRefused(
            f"{uri} is not what the training job {name!r} wrote, whom the package names: that is below "
            f"{Keys.artifact(name)}"
        )
    job = existing(sagemaker.describe_training_job, TrainingJobName=name)
    if job is None:
        if (booked := _booked(s3, bucket, name)) is None:
            raise ArtifactRefused(
                f"the training job {name!r} does not exist, and the ledger does not know it: nobody knows what made "
                f"{uri}"
            )
        arn, status = booked.arn, booked.status
        output = f"s3://{bucket}/{Keys.job_output()}"
    else:
        arn, status = job["TrainingJobArn"], job["TrainingJobStatus"]
        output = job.get("OutputDataConfig", {}).get("S3OutputPath", "").rstrip("/")
    wanted = (metadata.training_job_arn, "Completed", f"s3://{bucket}/{Keys.job_output()}")
    for what, found, right in zip(("ARN", "status", "output path"), (arn, status, output), wanted, strict=True):
        if found != right:
            raise ArtifactRefused(
                f"the training job {name!r} has the {what} {found!r} and not {right!r}: nobody knows what made {uri}"
            )


def _booked(s3: Any, bucket: str, name: str) -> LedgerEntry | None:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=Keys.ledger()):
        for item in page.get("Contents", ()):
            if item["Key"].endswith(f"/{name}.json"):
                return LedgerEntry.model_validate_json(read_bytes(s3, f"s3://{bucket}/{item['Key']}"))
    return None


def check_tune(data: bytes, metadata: PackageMetadata, lineage: ExternalLineage) -> Sha256:
    """The digest of the held-out records that a provider's model has to be evaluated on. `data`: its request.

    Raises ArtifactRefused where model, job or training data are others than the package's own.
    """
    try:
        request = json.loads(data)
        provider, training = request["spec"]["provider"], request["spec"]["training"]["sha256"]
        heldout: Sha256 = request["heldout_sha256"]
    except (ValueError, LookupError, TypeError) as error:
        raise ArtifactRefused(f"{lineage.external_request_uri} is no request of a paid tune: {error!r}") from error
    named = {"provider": lineage.external_provider, "job": lineage.external_job, "model": lineage.external_model}
    for what, found, wanted in (
        ("provider", provider, lineage.external_provider),
        ("training data", training, metadata.dataset_sha256),
        ("job", metadata.training_job_arn, lineage.external_job),
        ("model", digest(named), metadata.model_sha256),
    ):
        if found != wanted:
            raise ArtifactRefused(f"the package names the {what} {wanted}, but its request and lineage {found}")
    return heldout
