"""Model packages: what travels with a version, and the decision to promote it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stepforge.contracts.base import Contract, S3Uri, Sha256
from stepforge.contracts.jobs import JobOutcome
from stepforge.contracts.reports import Interval

Approval = Literal["Approved", "Rejected", "PendingManualApproval"]
Stage = Literal["Development", "Staging", "Production", "Archived"]
"""`Staging` is tried by a promotion; `Production` serves now; `Archived` served once."""
StageStatus = Literal[
    "PendingApproval", "Rejected", "Trying", "TryingAgain", "Serving", "Superseded", "Refused", "Failed", "CutOff"
]
"""Why a version is in its stage. `TryingAgain` served before, and goes back to `Archived` where it fails."""

PROMOTION = "promotion"
PROMOTION_EVENT = "promotion_event"
"""Keys in CustomerMetadataProperties: how the last promotion ended (`PromotionResult`), and the approval it was for."""
SERVES_SINCE = "serves_since"
"""Key in CustomerMetadataProperties: when a version was last promoted (ISO, UTC)."""
APPROVED_AT = "approved_at"
"""Key in CustomerMetadataProperties: the newest approval that a promotion tried (ISO, UTC). An older one is late."""
SUPERSEDED_AT = "superseded_at"
"""Key in CustomerMetadataProperties: when another version was last promoted over it (ISO, UTC)."""
REJECTION = "rejection"
"""Key in CustomerMetadataProperties: why a version was last rejected."""
CHAMPION_GATE = "champion_gate"
"""Key in CustomerMetadataProperties: what the champion gate said when a version was registered (`GateVerdict`)."""
GateVerdict = Literal["first", "better", "not better"]
"""`first`: there was no champion to compare with. A version that is `not better` is promoted where a person approves
it; one without a verdict is not."""
PromotionResult = Literal["deployed", "refused", "failed"]
PromotionStep = Literal["trying", "deployed", "refused", "failed", "cut off"]
"""What a promotion says of its package. `cut off` is no verdict: the sweep starts another."""
STAMPED = ("promotion refused: ", "promotion failed: ")
"""How ApprovalDescription begins while the stamp of a promotion is the last that was said about an approval."""


class PackageMetadata(Contract):
    """CustomerMetadataProperties of a package: strings of at most 256 characters each."""

    pipeline_sha256: Sha256
    model_sha256: Sha256
    """Digest of the artifact's manifest, verified again before a deployment."""
    evaluation_sha256: Sha256
    evaluation_uri: S3Uri
    """Folder of the evaluation's artifact, whose manifest has the digest `evaluation_sha256`."""
    dataset_sha256: Sha256
    training_job_arn: str
    domain: str

    def properties(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def of(cls, properties: dict[str, str]) -> PackageMetadata | None:
        """None where the properties are not those of a package that stepforge registered."""
        if not set(cls.model_fields) <= set(properties):
            return None
        return cls.model_validate({name: properties[name] for name in cls.model_fields})


class ExternalLineage(Contract):
    """More of CustomerMetadataProperties, of a package whose weights a provider keeps. Never a key.

    `PackageMetadata` of such a package has the digest of the request as its pipeline's, and the digest of provider, job
    and model as its model's.
    """

    external_provider: str
    external_job: str
    external_model: Annotated[str, Field(max_length=256)]
    """What is deleted."""
    external_handle: Annotated[str, Field(max_length=256)]
    """What is called."""
    external_base: Annotated[str, Field(max_length=256)]
    external_key: str
    """The launch in the spend ledger."""
    external_request_uri: S3Uri
    """The whole request, and the settings by which the provider is reached; its digest is `pipeline_sha256`."""
    external_cost_usd: str
    external_local_fake: Literal["yes", "no"] = "no"

    def properties(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def of(cls, properties: dict[str, str]) -> ExternalLineage | None:
        """None for a package whose weights are ours."""
        if "external_provider" not in properties:
            return None
        return cls.model_validate({name: properties[name] for name in cls.model_fields if name in properties})


class Comparison(Contract):
    """The champion gate's decision: numbers in, verdict with reasons out."""

    better: bool
    """Whether the challenger is not worse on any test split and better on one, by the intervals."""
    champion: str | None = None
    """ARN of the package that serves now, else of the newest that was approved; None where there is neither."""
    reasons: tuple[str, ...]
    differences: dict[str, float] = {}
    paired: dict[str, Interval] = {}
    """`split/decoding` to the interval of the mean difference, where both were asked the same records."""

    @property
    def verdict(self) -> GateVerdict:
        if self.champion is None:
            return "first"
        return "better" if self.better else "not better"


class Promotion(Contract):
    """Input of the machine `promote`."""

    package_arn: str
    group: str
    version: int
    event_id: Sha256
    """Digest of (ARN, field, value, LastModifiedTime): the same change seen twice has one id."""
    approved_at: str | None = None
    """When (ISO, UTC, to the second); None where no event said it."""


class Registered(Contract):
    """A version in the registry."""

    package_arn: str
    group: str
    version: Annotated[int, Field(ge=1)]
    adopted: bool = False
    """Whether this model of this pipeline was in the registry already."""


class TrainOutput(Contract):
    """Output of the machine `train`."""

    package_arn: str
    version: int
    adopted: bool
    comparison: Comparison
    dataset: JobOutcome
    gate: JobOutcome
    stages: tuple[JobOutcome, ...]
    evaluation: JobOutcome
