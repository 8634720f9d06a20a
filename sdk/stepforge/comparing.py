"""Two runs side by side: what differs in their specs, their scores, their cost and time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stepforge.artifacts import read_bytes
from stepforge.connection import Connection
from stepforge.contracts.base import first_problem
from stepforge.contracts.economics import LedgerEntry
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.reports import EvaluationReport, Interval
from stepforge.economics import prices
from stepforge.economics.costs import Row, row_of
from stepforge.economics.ledger import ENDED, booked, entry_of
from stepforge.errors import InvalidInput
from stepforge.pipelines import Run
from stepforge.plans.differences import Change, differences

_GREEDY_ACCEPTED = ("greedy", "accepted")


@dataclass(frozen=True)
class ScoreChange:
    """A test split's share of greedy answers that are accepted; None where a run has no such score."""

    split: str
    first: Interval | None
    second: Interval | None

    @property
    def difference(self) -> float | None:
        return None if self.first is None or self.second is None else self.second.mean - self.first.mean

    @property
    def apart(self) -> bool | None:
        """Whether the 95 % intervals do not touch."""
        if self.first is None or self.second is None:
            return None
        return self.first.above(self.second) or self.second.above(self.first)


@dataclass(frozen=True)
class Side:
    """One of the runs."""

    name: str
    status: str
    seconds: float | None
    """On the clock; None while it runs."""
    cost: Row
    """Of all jobs that it needed, those that it adopted too."""


@dataclass(frozen=True)
class Compared:
    first: Side
    second: Side
    changes: tuple[Change, ...]
    scores: tuple[ScoreChange, ...]


def compare_runs(first: Run, second: Run) -> Compared:
    """What differs from the first run to the second."""
    reports = [_report(run) for run in (first, second)]
    scores = [ScoreChange(split, *(_score(report, split) for report in reports)) for split in TEST_SPLITS]
    return Compared(
        _side(first),
        _side(second),
        tuple(differences(first.spec, second.spec)),
        tuple(score for score in scores if score.first is not None or score.second is not None),
    )


def _report(run: Run) -> EvaluationReport | None:
    if run.execution.status != "SUCCEEDED":
        return None
    return run.evaluation(TrainOutput.model_validate(run.result()))


def _score(report: EvaluationReport | None, split: str) -> Interval | None:
    found = () if report is None else report.scores
    return next((s.value for s in found if (s.split, s.decoding, s.metric) == (split, *_GREEDY_ACCEPTED)), None)


def _side(run: Run) -> Side:
    ended = run.execution.stopped
    seconds = None if ended is None else (ended - run.execution.started).total_seconds()
    return Side(run.name, run.execution.word, seconds, row_of(run.name, entries_of_run(run)))


def entries_of_run(run: Run) -> Iterable[LedgerEntry]:
    """What each attempt at the jobs of a run cost, by their descriptions: nothing has to be booked for it."""
    connection = run.connection
    table = prices.load(connection.client("s3"), bucket=connection.environment.bucket)
    for job in run.jobs():
        for attempt in job.attempts:
            if attempt.description is not None and attempt.description["TrainingJobStatus"] in ENDED:
                entry = entry_of(attempt.description, {}, job.spec, table)
                assert entry is not None  # it has ended
                yield entry


@dataclass(frozen=True)
class JobFacts:
    """A job as SageMaker describes it, its tags, its spec and its cost."""

    description: dict[str, Any]
    tags: dict[str, str]
    spec: dict[str, Any] | None
    """None for a job whose spec is not in the environment's bucket; `why` says so."""
    entry: LedgerEntry | None
    """None for a job that has not ended, and for one without a spec that was never booked."""
    why: str = ""


def job_facts(connection: Connection, description: dict[str, Any]) -> JobFacts:
    """What there is to tell about a described job. One whose spec was removed costs what the ledger says."""
    sagemaker, s3 = connection.client("sagemaker"), connection.client("s3")
    bucket = connection.environment.bucket
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=description["TrainingJobArn"])["Tags"]}
    uri = description.get("HyperParameters", {}).get("spec_uri", "")
    if not uri.startswith(f"s3://{bucket}/"):
        return JobFacts(
            description, tags, None, None, "not in this environment's bucket: stepforge did not submit it here"
        )
    try:
        spec = JobSpec.model_validate_json(read_bytes(s3, uri))
    except ValidationError as error:
        why = f"{uri} is no spec of this version: {first_problem(error)}"
        return JobFacts(description, tags, None, booked(s3, description, bucket=bucket), why)
    except InvalidInput:
        why = f"{uri} is gone: `stepforge gc` removes specs that nobody needs any more"
        return JobFacts(description, tags, None, booked(s3, description, bucket=bucket), why)
    entry = entry_of(description, tags, spec, prices.load(s3, bucket=bucket))
    return JobFacts(description, tags, spec.model_dump(mode="json"), entry)
