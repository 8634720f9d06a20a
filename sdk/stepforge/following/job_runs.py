"""Executions of `evaluate` and `dataset`, whose jobs their specs tell beforehand: waited for, followed, stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from stepforge.connection import LOCAL, Connection, command
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import JobOutcome, JobRequest, JobSpec
from stepforge.contracts.names import Machine
from stepforge.contracts.requests import AssemblySpec, EvaluationSpec
from stepforge.contracts.resources import Resources
from stepforge.economics.estimate import model_of
from stepforge.errors import RunFailed, UnknownName
from stepforge.following import stopping
from stepforge.following.follow import RunEvent, Survivor
from stepforge.following.links import execution as execution_link
from stepforge.following.pace import Pace, paced_jobs
from stepforge.following.steps import PlannedJob, RunSteps
from stepforge.following.stopping import Stopped, Waiting
from stepforge.jobs import attempts_of
from stepforge.machines import executions
from stepforge.machines.assembly import joined_dataset
from stepforge.machines.executions import Execution, run_failure
from stepforge.machines.planning import job_request, job_tags

Output = TypeVar("Output", bound=Contract)
Spec = TypeVar("Spec", EvaluationSpec, AssemblySpec)
_AT_ONCE = 16
"""Parts that a follower looks at: twice as many as run at a time, in the order in which they begin."""


@dataclass
class Watched:
    """An execution that can be looked at."""

    connection: Connection
    execution: Execution

    @property
    def name(self) -> str:
        return self.execution.name

    @property
    def links(self) -> dict[str, str]:
        """Where it can be looked at; empty locally."""
        connection = self.connection
        if connection.endpoint_url is not None or not connection.region:
            return {}
        return {"step functions": execution_link(connection.region, self.execution.arn)}

    def refresh(self, connection: Connection | None = None) -> Execution:
        """Ask how it stands. Raises UnknownName where Step Functions keeps it no longer."""
        found = executions.describe((connection or self.connection).client("stepfunctions"), self.execution.arn)
        if found is None:
            raise UnknownName("run", self.name, None)
        self.execution = found
        return found

    def succeeded(self) -> Execution:
        """It, as it ended. Raises RunFailed with the cause where it has not succeeded."""
        execution = self.refresh()
        if execution.status != "SUCCEEDED":
            raise run_failure(self.name, execution)
        return execution


@dataclass
class Started(Watched, Generic[Output]):
    """An execution, and the model of its output."""

    output: type[Output]

    def wait(self, *, timeout_seconds: float = 7 * 86_400.0) -> Output:
        """Block until it has ended. Raises RunFailed with its cause, or where it has not ended in time."""
        pause, began = (0.1 if self.connection.name == LOCAL else 15.0), time.monotonic()
        while time.monotonic() - began < timeout_seconds:
            found = self.refresh()
            if found.status == "SUCCEEDED":
                return self.output.model_validate(found.output)
            if found.status not in executions.ADOPTED:
                raise run_failure(found.name, found)
            time.sleep(pause)
        raise RunFailed(f"{self.name} has not ended within {timeout_seconds:.0f} s: it goes on; look at it again")


@dataclass
class JobRun(Started[Output], Generic[Output, Spec]):
    """An execution of jobs that can be told beforehand: what `evaluate` and `dataset` run."""

    spec: Spec

    @property
    def machine(self) -> Machine:
        return "evaluate" if isinstance(self.spec, EvaluationSpec) else "dataset"

    def walk(self, sagemaker: Any = None) -> EvaluationWalk | DatasetWalk:
        """Its jobs from the beginning; `sagemaker` describes them instead of the connection's own client."""
        connection = self.connection if sagemaker is None else self.connection.once
        if isinstance(self.spec, EvaluationSpec):
            return EvaluationWalk(connection, self.spec, sagemaker)
        return DatasetWalk(connection, self.spec, sagemaker)

    def jobs(self) -> list[PlannedJob]:
        """The jobs that are done, and those that are due."""
        return all_jobs(self.walk())

    def follow(self, *, pace: Pace | None = None) -> Iterator[RunEvent]:
        """Yield what happens until the execution has ended; whatever passes by itself is waited out.

        Raises EnvironmentUnavailable where nothing answered for an hour (locally some seconds).
        """
        jobs = paced_jobs(self.connection, pace)
        survivor = Survivor(self.connection, jobs.pace, command(f"watch {self.name}", self.connection.name))
        yield from survivor.events(RunSteps(self, self.walk(jobs), jobs))

    def result(self) -> Output:
        """The output of one that has succeeded. Raises RunFailed with the cause where it has not."""
        return self.output.model_validate(self.succeeded().output)

    def stop(self) -> Stopped:
        """Stop the execution and its jobs, but for those that another execution waits for."""
        before = self.refresh()
        if waited := before.status == "RUNNING":
            executions.stop(self.connection.client("stepfunctions"), before.arn, cause=stopping.CAUSE)
        names: list[str] = []
        stopped: list[bool] = []
        waiting: list[Waiting] = []
        for planned in self.jobs():
            if planned.attempt.status not in ("InProgress", "Stopping"):
                continue
            name, prefix = planned.attempt.name, planned.spec.prefix
            stops, others = stopping.stop_job_of(self.connection, self.name, job=name, job_prefix=prefix, waited=waited)
            names.append(name)
            stopped.append(stops)
            waiting += others
        ended, job = before.stopped, ", ".join(names)
        return Stopped(self.name, before.word, ended, job, bool(names) and all(stopped), tuple(waiting))


@dataclass
class EvaluationWalk:
    """The one job of an evaluation."""

    connection: Connection
    spec: EvaluationSpec
    sagemaker: Any = None
    done: list[PlannedJob] = field(default_factory=list)

    def due(self) -> list[PlannedJob]:
        return [] if self.done else [planned_job(self.connection, self.spec, self.spec.job, self.sagemaker)]

    def advance(self, planned: PlannedJob) -> bool:
        if planned.attempt.outcome is None:
            return False
        self.done.append(planned)
        return True


@dataclass
class DatasetWalk:
    """The parts of a dataset, side by side; then its gate, whose identity the joined parts decide."""

    connection: Connection
    spec: AssemblySpec
    sagemaker: Any = None

    def __post_init__(self) -> None:
        self._parts = self.spec.jobs
        self._outcomes: dict[str, PlannedJob] = {}
        self._gate: JobSpec | None = None

    @property
    def done(self) -> list[PlannedJob]:
        """In their order."""
        jobs = [*self._parts, *([] if self._gate is None else [self._gate])]
        return [self._outcomes[job.identity] for job in jobs if job.identity in self._outcomes]

    def due(self) -> list[PlannedJob]:
        """Parts that are not done: the first that run or are yet to begin, and those before them that failed."""
        found: list[PlannedJob] = []
        alive = 0
        for number, part in enumerate(self._parts):
            if part.identity in self._outcomes:
                continue
            label = f"part {number + 1}/{len(self._parts)}"
            found.append(planned_job(self.connection, self.spec, part, self.sagemaker, label=label))
            alive += found[-1].attempt.ending is None
            if alive == _AT_ONCE:
                break
        if found:
            return found
        gate = self.gate()
        if gate.identity in self._outcomes:
            return []
        return [planned_job(self.connection, self.spec, gate, self.sagemaker)]

    def gate(self) -> JobSpec:
        """The job that gates the whole. For a walk that is past all parts."""
        if self._gate is None:
            artifacts = [outcome_of(self._outcomes[part.identity]).artifact for part in self._parts]
            bucket = self.connection.environment.bucket
            self._gate = self.spec.gate_of(joined_dataset(self.connection.client("s3"), artifacts, bucket=bucket))
        return self._gate

    def advance(self, planned: PlannedJob) -> bool:
        if planned.attempt.outcome is None:
            return False
        self._outcomes[planned.spec.identity] = planned
        return True


def all_jobs(walk: EvaluationWalk | DatasetWalk) -> list[PlannedJob]:
    """The jobs that are done, and those that are due."""
    due = walk.due()
    while sum(walk.advance(planned) for planned in due):
        due = walk.due()
    return [*walk.done, *due]


def outcome_of(planned: PlannedJob) -> JobOutcome:
    assert planned.attempt.outcome is not None  # it was gone past
    return planned.attempt.outcome


def request_of(
    connection: Connection, spec: EvaluationSpec | AssemblySpec, job: JobSpec, *, run: str = ""
) -> JobRequest:
    """The input of `run-job` for a job of an execution: what its handlers make of the same spec."""
    resources = spec.resources if isinstance(spec, EvaluationSpec) else spec.resources.get(job.type, Resources())
    model = model_of(job) if job.type == "evaluate" else ""
    tags = job_tags(domain=job.domain, environment=connection.environment.name, run=run, model=model)
    return job_request(job, image=spec.image, resources=resources, bucket=connection.environment.bucket, tags=tags)


def planned_job(
    connection: Connection,
    spec: EvaluationSpec | AssemblySpec,
    job: JobSpec,
    sagemaker: Any = None,
    *,
    label: str = "",
) -> PlannedJob:
    return PlannedJob(job, tuple(attempts_of(connection, request_of(connection, spec, job), sagemaker)), label)
