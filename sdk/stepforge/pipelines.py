"""Pipelines: plan, start or adopt, follow and stop executions of the machine `train`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepforge.artifacts import read_report, write_json
from stepforge.connection import Connection, command
from stepforge.contracts.names import Keys
from stepforge.contracts.pipelines import PipelineSpec, PipelineState, next_job
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.reports import EvaluationReport
from stepforge.errors import UnknownName
from stepforge.following import stopping
from stepforge.following.follow import RunEvent, Survivor
from stepforge.following.job_runs import Watched
from stepforge.following.overview import RunSummary, summarise
from stepforge.following.pace import Pace, paced_jobs
from stepforge.following.steps import PlannedJob, RunSteps
from stepforge.following.stopping import Stopped
from stepforge.following.views import run_html
from stepforge.jobs import JobState, attempts_of
from stepforge.machines import executions
from stepforge.machines.packages import EVALUATION
from stepforge.machines.planning import advance, pipeline_job_request, read_pipeline

__all__ = ["Pipelines", "PlannedJob", "Run", "RunEvent", "Walk"]
_LISTED = 50


class Pipelines:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, spec: PipelineSpec) -> Run:
        """Submit a pipeline. Submitting it twice is adopting it once."""
        connection, environment = self._connection, self._connection.environment
        bucket, key = environment.bucket, Keys.pipeline(spec.identity)
        write_json(connection.client("s3"), spec, bucket=bucket, key=key, key_arn=environment.key_arn)
        state = {"pipeline_uri": f"s3://{bucket}/{key}", "pipeline_sha256": spec.identity}
        execution = executions.start_or_adopt(
            connection.client("stepfunctions"), environment.machines["train"], "train", spec.identity, state
        )
        return Run(connection, execution, spec)

    def find(self, spec: PipelineSpec) -> Run | None:
        """The newest run of a pipeline, without starting one."""
        states, machine = self._connection.client("stepfunctions"), self._connection.environment.machines["train"]
        found = executions.find(states, machine, "train", spec.identity)
        return None if found is None else Run(self._connection, found, spec)

    def runs(self, *, most: int = _LISTED) -> list[dict[str, Any]]:
        """Summaries of runs, newest first."""
        answer = self._connection.client("stepfunctions").list_executions(
            stateMachineArn=executions.unqualified(self._connection.environment.machines["train"]), maxResults=most
        )
        summaries: list[dict[str, Any]] = answer["executions"]
        return sorted(summaries, key=lambda run: run["startDate"], reverse=True)

    def overview(self, *, most: int = 20) -> list[RunSummary]:
        """Runs at a glance, newest first."""
        return summarise(self._connection, [run["executionArn"] for run in self.runs(most=most)])

    def get(self, name: str) -> Run:
        """A run by its name, the `latest`, or the newest one of a domain. Raises UnknownName."""
        connection = self._connection
        names = [run["name"] for run in self.runs()]
        wanted = names[0] if name == "latest" and names else name
        if wanted not in names:
            # Only now: an overview takes several calls for each run.
            wanted = next((run.name for run in self.overview() if run.domain == name), name)
        arn = executions.execution_arn(connection.environment.machines["train"], wanted)
        execution = executions.describe(connection.client("stepfunctions"), arn)
        if execution is None or execution.input is None:
            raise UnknownName("run", name, names, newest=len(names) >= _LISTED)
        state = PipelineState.model_validate(execution.input)
        return Run(connection, execution, read_pipeline(connection.client("s3"), state))

    def plan(self, spec: PipelineSpec) -> list[PlannedJob]:
        """The jobs whose specs can be known by now: all that are done, and the one after them."""
        return Walk(self._connection, spec).all()


class Walk:
    """Follows a pipeline through what is done: a later job's identity needs the digests of the earlier ones."""

    def __init__(self, connection: Connection, spec: PipelineSpec, sagemaker: Any = None) -> None:
        """`sagemaker` describes jobs instead of the connection's own client."""
        self._connection = connection
        self._sagemaker = sagemaker
        self._bucket = connection.environment.bucket
        self._spec = spec
        self._state = PipelineState(
            pipeline_uri=f"s3://{self._bucket}/{Keys.pipeline(spec.identity)}", pipeline_sha256=spec.identity
        )

    def look(self) -> PlannedJob | None:
        """The first job that is not done, with its newest attempt; None when all are done."""
        job = next_job(self._spec, self._state)
        if job is None:
            return None
        request = pipeline_job_request(job, self._spec, bucket=self._bucket)
        return PlannedJob(job, tuple(attempts_of(self._connection, request, self._sagemaker)))

    def due(self) -> list[PlannedJob]:
        """As `look`, for who follows: jobs of a pipeline come one after the other."""
        planned = self.look()
        return [] if planned is None else [planned]

    def advance(self, planned: PlannedJob) -> bool:
        """Go past a job that is done. Returns whether it is."""
        if planned.attempt.outcome is None:
            return False
        self._state = advance(self._spec, self._state, planned.attempt.outcome)
        return True

    def all(self) -> list[PlannedJob]:
        """The jobs that are done, and the one after them."""
        found = []
        while (planned := self.look()) is not None:
            found.append(planned)
            if not self.advance(planned):
                break
        return found


@dataclass(eq=False, repr=False)
class Run(Watched):
    """One execution of the machine `train`, with the pipeline that it runs."""

    spec: PipelineSpec

    def _repr_html_(self) -> str:
        """What a notebook shows: its jobs as they stand now, and what to do about one that failed."""
        word = self.refresh().word
        rows = [
            (job.stage, job.attempt.name, job.attempt.ending or job.attempt.status, _advice(job.attempt))
            for job in self.jobs()
        ]
        return run_html(self.name, word, rows, self.links)

    def jobs(self) -> list[PlannedJob]:
        """The jobs that are done, and the one after them."""
        return Walk(self.connection, self.spec).all()

    def evaluation(self, output: TrainOutput) -> EvaluationReport:
        """The held-out scores of a run that has succeeded. Raises IntegrityError where they were altered."""
        return read_report(self.connection.client("s3"), output.evaluation.artifact, EVALUATION, EvaluationReport)

    def stop(self) -> Stopped:
        """Stop the execution and the job that it waits for, unless another execution waits for that job too.

        A run that has ended stays as it is; a job of it that trains on with nobody waiting is stopped.
        """
        before = self.refresh()
        if waited := before.status == "RUNNING":
            executions.stop(self.connection.client("stepfunctions"), before.arn, cause=stopping.CAUSE)
        last = self.jobs()[-1]
        found = Stopped(self.name, before.word, before.stopped)
        if last.attempt.status not in ("InProgress", "Stopping"):
            return found
        name, prefix = last.attempt.name, last.spec.prefix
        stops, others = stopping.stop_job_of(self.connection, self.name, job=name, job_prefix=prefix, waited=waited)
        return replace(found, job=name, job_stopped=stops, waiting=others)

    def follow(self, *, poll_seconds: float | None = None, pace: Pace | None = None) -> Iterator[RunEvent]:
        """Yield what happens until the execution has ended; whatever passes by itself is waited out.

        Raises EnvironmentUnavailable where nothing answered for an hour (locally some seconds).
        """
        jobs = paced_jobs(self.connection, pace)
        chosen = jobs.pace if poll_seconds is None else replace(jobs.pace, logs_seconds=poll_seconds)
        survivor = Survivor(self.connection, chosen, command(f"watch {self.name}", self.connection.name))
        yield from survivor.events(RunSteps(self, Walk(self.connection.once, self.spec, jobs), jobs))

    def wait(self) -> dict[str, Any]:
        """Block until it has ended. Returns the output; raises RunFailed with the cause."""
        for _ in self.follow():
            pass
        return self.result()

    def result(self) -> dict[str, Any]:
        """The output of a run that has succeeded. Raises RunFailed where it has not."""
        return self.succeeded().output or {}


def _advice(attempt: JobState) -> str:
    return "" if attempt.diagnosis is None else f"{attempt.diagnosis.category}: {attempt.diagnosis.advice}"
