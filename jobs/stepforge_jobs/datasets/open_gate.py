"""The gate as a training job sees it, apart from the gate itself: a new check trains nothing again."""

from __future__ import annotations

from stepforge.contracts.manifests import Manifest
from stepforge.contracts.reports import GateReport
from stepforge.errors import InvalidInput
from stepforge_jobs.job import Job

GATE = "gate.json"


def require_open_gate(job: Job, data: Manifest) -> GateReport:
    """The gate of a training job. Raises InvalidInput where it is of other data or not passed; the message says why."""
    job.artifact("gate")
    path = job.channel("gate") / GATE
    report = GateReport.model_validate_json(path.read_bytes())
    if report.manifest_sha256 != data.sha256:
        raise InvalidInput(
            f"the gate is of the dataset {report.manifest_sha256}, but this job reads {data.sha256}: run the gate on it"
        )
    if not report.passed:
        raise InvalidInput(report.refusal or "the data failed the gate, which names no finding: run the gate again")
    return report
