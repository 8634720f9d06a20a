"""Runs at a glance: what each trained, how long it took, how it ended and what its model is accepted for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from stepforge.artifacts import read_report
from stepforge.connection import Connection
from stepforge.contracts.pipelines import PipelineState
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import IdentityConflict, IntegrityError, InvalidInput
from stepforge.machines import executions
from stepforge.machines.executions import Execution
from stepforge.machines.packages import EVALUATION
from stepforge.machines.planning import read_pipeline

_AT_ONCE = 8
_UNREADABLE = (ValidationError, InvalidInput, IntegrityError, IdentityConflict)
"""A row of a list leaves out what it cannot read; the run's own commands say why."""


@dataclass(frozen=True)
class RunSummary:
    name: str
    status: str
    """As Step Functions has it; `error` is the name of what ended it."""
    error: str
    domain: str
    """Empty where the pipeline cannot be read any more."""
    started: datetime
    seconds: float
    """Until it ended, or until now."""
    accepted: dict[str, float] = field(default_factory=dict)
    """Test split to the share of greedy answers that every hard rule accepts; empty without an evaluation."""


def summarise(connection: Connection, arns: list[str]) -> list[RunSummary]:
    """One summary for each execution of `train`, in the same order. Four calls a finished run, several at a time."""
    states, s3 = connection.client("stepfunctions"), connection.client("s3")

    def one(arn: str) -> RunSummary | None:
        execution = executions.describe(states, arn)
        return None if execution is None else _summary(s3, execution)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [found for found in pool.map(one, arns) if found is not None]


def _summary(s3: Any, execution: Execution) -> RunSummary:
    ended = execution.stopped or datetime.now(UTC)
    return RunSummary(
        name=execution.name,
        status=execution.status,
        error=execution.error,
        domain=_domain(s3, execution),
        started=execution.started,
        seconds=(ended - execution.started).total_seconds(),
        accepted=_accepted(s3, execution),
    )


def _domain(s3: Any, execution: Execution) -> str:
    try:
        return read_pipeline(s3, PipelineState.model_validate(execution.input)).domain
    except _UNREADABLE:
        return ""


def _accepted(s3: Any, execution: Execution) -> dict[str, float]:
    if execution.status != "SUCCEEDED":
        return {}
    try:
        artifact = TrainOutput.model_validate(execution.output).evaluation.artifact
        report = read_report(s3, artifact, EVALUATION, EvaluationReport)
    except _UNREADABLE:
        return {}
    greedy = {s.split: s.value.mean for s in report.scores if (s.decoding, s.metric) == ("greedy", "accepted")}
    return {split: greedy[split] for split in TEST_SPLITS if split in greedy}
