"""Model packages: what travels with a version, and the decision to promote it."""

from __future__ import annotations

from typing import Literal

from stepforge.contracts.base import Contract, S3Uri, Sha256

Approval = Literal["Approved", "Rejected", "PendingManualApproval"]
Stage = Literal["Development", "Staging", "Production"]


class PackageMetadata(Contract):
    """CustomerMetadataProperties of a package: strings of at most 256 characters each."""

    pipeline_sha256: Sha256
    model_sha256: Sha256
    """Digest of the artifact's manifest, verified again before a deployment."""
    evaluation_sha256: Sha256
    evaluation_uri: S3Uri
    dataset_sha256: Sha256
    training_job_arn: str
    domain: str

    def properties(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump(mode="json").items()}


class Comparison(Contract):
    """The champion gate's decision: numbers in, verdict with reasons out."""

    better: bool
    """Whether the challenger is not worse on any test split and better on one, by the intervals."""
    champion: str | None = None
    """ARN of the package that serves now; None where there is none."""
    reasons: tuple[str, ...]
    differences: dict[str, float] = {}


class Promotion(Contract):
    """Input of the machine `promote`."""

    package_arn: str
    group: str
    version: int
    event_id: Sha256
    """Digest of (ARN, field, value, LastModifiedTime): the same change seen twice has one id."""
