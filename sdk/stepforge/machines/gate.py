"""The reliability gate's word on a dataset, as the machine `train` reads it."""

from __future__ import annotations

from typing import Any

from stepforge.artifacts import read_report
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import ArtifactRef, JobOutcome
from stepforge.contracts.reports import GateReport
from stepforge.errors import GateRefused

GATE = "gate.json"


class GateCheck(Contract):
    dataset: JobOutcome | ArtifactRef
    """What a job wrote, or a dataset that was joined from several."""
    gate: JobOutcome


def read_gate(s3: Any, request: GateCheck) -> GateReport:
    """The report of a gate that passed this dataset.

    Raises GateRefused where it did not pass, or where the report is bound to other data.
    """
    dataset = request.dataset if isinstance(request.dataset, ArtifactRef) else request.dataset.artifact
    report = read_report(s3, request.gate.artifact, GATE, GateReport)
    if report.manifest_sha256 != dataset.sha256:
        raise GateRefused(
            f"the gate {request.gate.name!r} looked at the data {report.manifest_sha256}, "
            f"but the dataset is {dataset.sha256}: it opens nothing"
        )
    if not report.passed:
        raise GateRefused(report.refusal or "the data failed the gate, which named no finding")
    return report
