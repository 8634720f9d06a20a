"""The steps of following an execution: each asks about the jobs that are due, and tells what is new of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.names import job_name
from stepforge.following.follow import Out
from stepforge.following.jobs_log import LogTail
from stepforge.following.pace import PacedJobs
from stepforge.jobs import ENDED, JobState, Narrator
from stepforge.machines.executions import Execution


@dataclass(frozen=True)
class PlannedJob:
    """A job of a run: its spec, the stage's name, and the attempts that there are."""

    spec: JobSpec
    attempts: tuple[JobState, ...]
    label: str = ""
    """What it is called among others of its type."""

    @property
    def attempt(self) -> JobState:
        """The last attempt; Absent where there is none yet."""
        return self.attempts[-1] if self.attempts else JobState(job_name(self.spec.prefix, 0), None)

    @property
    def stage(self) -> str:
        return self.label or str(getattr(self.spec.work, "name", self.spec.type))


class Walking(Protocol):
    """Knows which jobs of a run come when."""

    def due(self) -> list[PlannedJob]:
        """Jobs that are not done, and do not wait for another; none at the end."""

    def advance(self, planned: PlannedJob) -> bool:
        """Go past a job that is done. Returns whether it is."""


class Followed(Protocol):
    """An execution that can be looked at again."""

    connection: Connection
    execution: Execution

    def refresh(self, connection: Connection | None = None) -> Execution:
        """The execution as it stands now."""


class RunSteps:
    """One step of `Survivor.events` a call. `walk` has to ask `jobs`, so that each job is described at its pace."""

    def __init__(self, run: Followed, walk: Walking, jobs: PacedJobs) -> None:
        self._run, self._walk, self._jobs = run, walk, jobs
        self._narrators: dict[str, Narrator] = {}
        self._told: set[str] = set()
        self._ended_at: float | None = None

    def __call__(self, out: Out) -> bool:
        run = self._run
        ended = run.refresh(run.connection.once).status != "RUNNING"
        if ended and self._ended_at is None:
            self._ended_at = self._jobs.pace.clock()
        going = True
        while going:
            due, going = self._walk.due(), False
            for planned in due:
                if self._concerns(planned.attempt):
                    self._tell(planned, out)
                    going = self._walk.advance(planned) or going
        if self._ended_at is None:
            return ended
        # What is remembered of a job may be older than the run's end: the last look must not be.
        return all(
            planned.attempt.ending is not None or self._jobs.as_of(planned.attempt.name) >= self._ended_at
            for planned in due
        )

    def _tell(self, planned: PlannedJob, out: Out) -> None:
        attempt = planned.attempt
        if attempt.name in self._told:
            return
        adopted = self._adopted(attempt)
        if attempt.name not in self._narrators:
            tail = LogTail(self._run.connection.once.client("logs"), attempt.name)
            self._narrators[attempt.name] = Narrator(self._run.connection, tail, planned.stage, attempt.name)
        narrator = self._narrators[attempt.name]
        narrator.tell(attempt, out, adopted=adopted, silent=adopted and attempt.status == "Completed")
        if attempt.status in ENDED:
            narrator.tell_end(attempt, out, adopted=adopted)
            self._told.add(attempt.name)
            del self._narrators[attempt.name]

    def _adopted(self, attempt: JobState) -> bool:
        """Whether a job was there before this run was."""
        created = (attempt.description or {}).get("CreationTime")
        return created is not None and created < self._run.execution.started

    def _concerns(self, attempt: JobState) -> bool:
        """Whether there is something to tell: an attempt that failed before this run began is another run's story."""
        if attempt.description is None:
            return False
        spent = attempt.status in ("Failed", "Stopped")
        return not (spent and attempt.description["LastModifiedTime"] < self._run.execution.started)
