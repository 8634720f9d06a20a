"""What jobs report: gate.json, evaluation.json and a stage's run.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from stepforge.contracts.base import Contract, Sha256
from stepforge.contracts.records import Split


class GateFinding(Contract):
    """One reason why data may not be trained on."""

    check: Literal["schema", "integrity", "leak", "smoke", "verifier", "trace", "empty"]
    record: str
    """The record's id, or the shard's path where no record can be named."""
    rule: str
    message: str


class GateReport(Contract):
    """Bound to the dataset by `manifest_sha256`: a gate of other data opens nothing."""

    version: Literal[1] = 1
    manifest_sha256: Sha256
    passed: bool
    checked: dict[str, int]
    """Check to the number of records it looked at."""
    findings: tuple[GateFinding, ...] = ()
    """The first 50."""
    total_findings: int = 0
    warnings: tuple[GateFinding, ...] = ()
    """What may be wrong, and shuts nothing out."""

    @property
    def refusal(self) -> str:
        """One sentence that names the first record and rule."""
        if self.passed or not self.findings:
            return ""
        first = self.findings[0]
        more = f" ({self.total_findings - 1} more)" if self.total_findings > 1 else ""
        where = f"record {first.record!r}, {first.check} rule {first.rule!r}"
        return f"the data failed the gate: {where}: {first.message}{more}"


class Interval(Contract):
    """A mean with a 95 % bootstrap interval over records."""

    mean: float
    low: float
    high: float
    count: int

    def above(self, other: Interval) -> bool:
        """Whether the difference is one that the intervals support: they do not touch. Stricter than a paired test."""
        return self.low > other.high


Decoding = Literal["greedy", "sampled"]


class Score(Contract):
    split: Split
    decoding: Decoding
    metric: str
    """`accepted` (share of completions that pass every hard rule), `reward`, `partial`, `pass@k`, `exact_match`."""
    value: Interval


class RuleFailure(Contract):
    split: Split
    rule: str
    failed: int
    count: int


class Scored(Contract):
    """Scores by split, decoding and metric."""

    scores: tuple[Score, ...]

    def score(self, split: Split, decoding: Decoding, metric: str = "accepted") -> Interval:
        for score in self.scores:
            if (score.split, score.decoding, score.metric) == (split, decoding, metric):
                return score.value
        raise KeyError(f"the evaluation has no {metric!r} of {split!r} by {decoding} decoding")


class EvaluationReport(Scored):
    version: Literal[1] = 1
    spec_sha256: Sha256
    model_sha256: Sha256
    manifest_sha256: Sha256
    rule_failures: tuple[RuleFailure, ...] = ()
    metadata: dict[str, Any] = {}


class StageReport(Contract):
    """run.json of a training job, beside its weights."""

    version: Literal[1] = 1
    spec_sha256: Sha256
    name: str
    type: Literal["sft", "srl", "rlvr"]
    steps: int
    seconds: float
    parameters: int
    tokens: int
    """Tokens that an optimiser step was taken on."""
    parents: tuple[Sha256, ...] = ()
    """Manifest digests of the models that this one descends from, oldest first."""
    choices: dict[str, Any] = {}
    """What the paper leaves open and how it was decided here."""
    versions: dict[str, str] = {}
    work: dict[str, Any] = {}
    """The stage's settings as they were given, defaults included."""
    metrics: Annotated[dict[str, float], Field(default_factory=dict)]
    """Last value of each metric."""
