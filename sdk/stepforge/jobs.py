"""Training jobs for people: what there is, how it goes, its log. Which attempt counts is decided in `attempts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stepforge.absence import existing
from stepforge.connection import LOCAL, Connection, command
from stepforge.contracts.jobs import JobOutcome, JobRequest
from stepforge.contracts.names import job_name
from stepforge.errors import JobFailed, UnknownName
from stepforge.following import stopping
from stepforge.following.advice import Diagnosis, diagnose, diagnose_job
from stepforge.following.follow import JobEnd, Out, RunEvent, Survivor, wait_for
from stepforge.following.jobs_log import Estimator, LogLine, LogTail
from stepforge.following.links import job_links
from stepforge.following.pace import Pace, PacedJobs, paced_jobs
from stepforge.following.stopping import Stopped
from stepforge.following.views import JobView, job_view
from stepforge.machines import attempts
from stepforge.machines.attempts import Ending

PENDING = "Pending"
"""Secondary status of a job that waits for a machine: locally for another job to end."""
ENDED = ("Completed", "Failed", "Stopped")
_LISTED = 50


@dataclass(frozen=True)
class JobState:
    """One attempt at a job; `description` is DescribeTrainingJob's answer, None where there is none yet."""

    name: str
    description: dict[str, Any] | None
    outcome: JobOutcome | None = None
    """What it produced, where it is Completed with a sound manifest."""
    failure: str = ""
    """Why it produced nothing, where SageMaker says Completed all the same."""

    @property
    def waits(self) -> str:
        """What it waits for before it starts, in the words of its last transition; empty where it does not."""
        job = self.description or {}
        if job.get("TrainingJobStatus") != "InProgress" or job.get("SecondaryStatus") != PENDING:
            return ""
        return str((job.get("SecondaryStatusTransitions") or [{}])[-1].get("StatusMessage") or "Waits for a machine")

    @property
    def status(self) -> str:
        """InProgress, Completed, Failed, Stopping, Stopped, or Absent."""
        if self.failure:
            return "Failed"
        return "Absent" if self.description is None else str(self.description["TrainingJobStatus"])

    @property
    def ending(self) -> Ending | None:
        """How it ended, told apart further than `status`; None where it did not."""
        if self.failure:
            return "Failed"
        return None if self.description is None else attempts.ending(self.description)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why it failed and what to do; None where it did not fail."""
        if self.failure:
            return diagnose(f"AlgorithmError: {self.failure}")
        return None if self.description is None else diagnose_job(self.description)


def attempts_of(connection: Connection, request: JobRequest, sagemaker: Any = None) -> list[JobState]:
    """Attempts up to the one that runs or is done. One Describe for each, and never a List.

    Those of another environment are left out; where they are the last, what follows is the next of ours, Absent yet.

    `sagemaker` answers instead of the connection's own client: a follower's answers from memory while it may not ask.
    """
    sagemaker = sagemaker or connection.client("sagemaker")
    found: list[JobState] = []
    bucket, passed = connection.environment.bucket, False
    for number in range(attempts.MAX_ATTEMPTS):
        name = job_name(request.prefix, number)
        description = attempts.describe(sagemaker, request, name, bucket=bucket)
        if description is None:
            found += [JobState(name, None)] if passed else []
            break
        if passed := attempts.is_anothers(description, bucket=bucket):
            continue
        action = attempts.next_action(description)
        found.append(JobState(name, description) if action != "adopt" else _ended(connection, name, description))
        if action is not None and not found[-1].failure:
            break
    return found


def _ended(connection: Connection, name: str, description: dict[str, Any]) -> JobState:
    # A plan of which nothing is done asks S3 for nothing, and its client takes a tenth of a second to make.
    s3, bucket = connection.client("s3"), connection.environment.bucket
    try:
        outcome = attempts.completed(s3, description, bucket=bucket, adopted=True)
    except JobFailed as error:
        return JobState(name, description, failure=str(error))
    return JobState(name, description, outcome)


class Jobs:
    """The jobs of an environment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> dict[str, Any]:
        """DescribeTrainingJob's answer. Raises UnknownName."""
        sagemaker = self._connection.client("sagemaker")
        answer = existing(sagemaker.describe_training_job, TrainingJobName=name)
        if answer is None:
            names = [job["TrainingJobName"] for job in self.recent(most=_LISTED)]
            raise UnknownName("job", name, names, newest=len(names) == _LISTED)
        return answer

    def recent(self, *, most: int = _LISTED) -> list[dict[str, Any]]:
        """Summaries, newest first. For people; nothing that must be fast calls it."""
        answer = self._connection.client("sagemaker").list_training_jobs(
            SortBy="CreationTime", SortOrder="Descending", MaxResults=min(most, 100)
        )
        summaries: list[dict[str, Any]] = answer["TrainingJobSummaries"]
        return summaries

    def stop(self, name: str) -> Stopped:
        """Ask a job to stop; it has 120 s to write a checkpoint. One that has ended stays as it is."""
        job = self.get(name)
        found = Stopped(name, job["TrainingJobStatus"], job.get("TrainingEndTime"), job=name)
        if found.status in ENDED:
            return found
        waiting = stopping.waiting_for(self._connection, name.rpartition("-")[0])
        stopping.stop_job(self._connection, name)
        return replace(found, job_stopped=True, waiting=tuple(waiting))

    def follow(self, name: str, *, pace: Pace | None = None, adopted: bool = False) -> Iterator[RunEvent]:
        """Yield what a job prints and does until it has ended; whatever passes by itself is waited out.

        `adopted`: it was there before the submission that follows it, and the events say so. Raises UnknownName for a
        job that does not exist, EnvironmentUnavailable where nothing answered for an hour.
        """
        jobs = paced_jobs(self._connection, pace)
        survivor = Survivor(self._connection, jobs.pace, command(f"watch {name}", self._connection.name))
        yield from survivor.events(JobSteps(self._connection, jobs, name, adopted=adopted))

    def wait(
        self, *names: str, pace: Pace | None = None, told: Callable[[RunEvent], None] | None = None
    ) -> Iterator[JobEnd]:
        """Yield each of many jobs as it ends, without their logs: one Describe in 30 s and job is all that is asked.

        `told` gets `paused` and `resumed` where nothing answers; without it they are warnings in the log. Raises
        UnknownName for a job that does not exist, EnvironmentUnavailable where nothing answered for an hour.
        """
        yield from wait_for(self._connection, paced_jobs(self._connection, pace), names, told=told)

    def result(self, name: str) -> dict[str, Any]:
        """DescribeTrainingJob's answer for a job that is Completed. Raises the JobFailed of any other."""
        job = self.get(name)
        if attempts.ending(job) != "Completed":
            raise attempts.job_failure(job)
        return job

    def view(self, name: str) -> JobView:
        """How a job stands, as a notebook shows it. Raises UnknownName."""
        return job_view(self._connection, self.get(name))

    def logs(self, name: str, *, follow: bool = False, poll_seconds: float | None = None) -> Iterator[LogLine]:
        """Lines of a job's log; with `follow` until it has ended. A log group that is not there yet is waited for.

        Raises UnknownName for a job that does not exist.
        """
        self.get(name)
        if not follow:
            yield from LogTail(self._connection.client("logs"), name).read()
            return
        jobs = paced_jobs(self._connection)
        pace = jobs.pace if poll_seconds is None else replace(jobs.pace, logs_seconds=poll_seconds)
        lines: list[LogLine] = []
        survivor = Survivor(self._connection, pace, command(f"logs {name} --follow", self._connection.name))
        for _ in survivor.events(JobSteps(self._connection, jobs, name, lines=lines, bare=True)):
            yield from lines
            lines.clear()
        yield from lines


class JobSteps:
    """The steps of following one job: each reads what is new in its log and, when that is due, its description.

    Without `lines` log lines become events; with it they are put there, `bare` of any other events but troubles.
    """

    def __init__(
        self,
        connection: Connection,
        jobs: PacedJobs,
        name: str,
        *,
        lines: list[LogLine] | None = None,
        bare: bool = False,
        adopted: bool = False,
    ) -> None:
        self._connection, self._jobs, self._name = connection, jobs, name
        self._lines, self._bare, self._adopted = lines, bare, adopted
        self._silent: bool | None = None
        self._stage = name.partition("-")[0]
        self._narrator = Narrator(connection, LogTail(connection.once.client("logs"), name), self._stage, name)
        # CloudWatch gets the last lines some seconds after the job's end.
        self._looks_after_end = 0 if connection.name == LOCAL else 1

    def __call__(self, out: Out) -> bool:
        job = existing(self._jobs.describe_training_job, TrainingJobName=self._name)
        if job is None:
            raise UnknownName("job", self._name, None)
        state = JobState(self._name, job)
        if self._lines is not None:
            self._lines.extend(self._narrator.tail.read())
        else:
            if self._silent is None:
                self._silent = self._adopted and state.status == "Completed"
            self._narrator.tell(state, out, adopted=self._adopted, silent=self._silent)
        if state.ending is None:
            if self._bare:
                out.append(RunEvent("log", self._stage, self._name))
            return False
        if self._looks_after_end:
            self._looks_after_end -= 1
            return False
        if not self._bare:
            self._narrator.tell_end(state, out, adopted=self._adopted)
        return True


@dataclass
class Narrator:
    """Turns how an attempt stands, and what is new in its log, into events. One for each attempt."""

    connection: Connection
    tail: LogTail
    stage: str
    name: str

    def __post_init__(self) -> None:
        self._estimator = Estimator()
        self._announced = False
        self._waits = self._state = ""

    def tell(self, attempt: JobState, out: Out, *, adopted: bool, silent: bool = False) -> None:
        """`silent` leaves the log out."""
        if not self._announced:
            self._announced = True
            data = {"status": attempt.status, "adopted": adopted, "links": self.links(attempt)}
            out.append(RunEvent("stage", self.stage, self.name, data))
        if attempt.waits != self._waits:
            self._waits = attempt.waits
            if self._waits:
                out.append(RunEvent("waits", self.stage, self.name, {"reason": self._waits}))
        description = attempt.description or {}
        secondary = description.get("SecondaryStatus", "")
        if attempt.ending is None and secondary not in ("", self._state, PENDING):
            self._state = secondary
            message = (description.get("SecondaryStatusTransitions") or [{}])[-1].get("StatusMessage", "")
            out.append(RunEvent("state", self.stage, self.name, {"state": secondary, "message": message}))
        if not silent:
            for line in self.tail.read():
                out.append(self._event(line))

    def tell_end(self, attempt: JobState, out: Out, *, adopted: bool) -> None:
        description, found = attempt.description or {}, attempt.diagnosis
        reason = attempt.failure or description.get("FailureReason", "")
        if not reason and found is not None and attempt.description is not None:
            reason = str(attempts.job_failure(attempt.description))
        data: dict[str, Any] = {
            "status": attempt.ending or attempt.status,
            "seconds": description.get("TrainingTimeInSeconds", 0),
            "reason": reason,
            "adopted": adopted,
            "links": self.links(attempt),
        }
        if found is not None:
            data |= {"category": found.category, "advice": found.advice}
        out.append(RunEvent("done", self.stage, self.name, data))

    def links(self, attempt: JobState) -> dict[str, str]:
        spec = (attempt.description or {}).get("HyperParameters", {}).get("spec_sha256", "")
        return job_links(self.connection, self.name, spec_sha256=spec)

    def _event(self, line: LogLine) -> RunEvent:
        data = line.progress()
        if data is None:
            return RunEvent("log", self.stage, self.name, {"line": line.text})
        if isinstance(data.get("step"), int) and isinstance(data.get("steps"), int):
            left = self._estimator.add(data["step"], data["steps"], at=line.at.timestamp())
            if left is not None:
                data = {**data, "remaining_seconds": left.seconds, "remaining_basis": left.basis}
        return RunEvent("progress", self.stage, self.name, data)
