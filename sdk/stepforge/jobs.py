"""Training jobs for people: what there is, how it goes, its log. Which attempt counts is decided in `attempts`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from stepforge import attempts, stopping
from stepforge.connection import Connection
from stepforge.contracts.jobs import JobOutcome, JobRequest
from stepforge.contracts.names import job_name
from stepforge.errors import JobFailed, UnknownName
from stepforge.stopping import Stopped

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
PENDING = "Pending"
"""Secondary status of a job that waits for a machine: locally for another job to end."""
ENDED = ("Completed", "Failed", "Stopped")


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


def attempts_of(connection: Connection, request: JobRequest) -> list[JobState]:
    """Attempts up to the one that runs or is done. One Describe for each, and never a List."""
    sagemaker = connection.client("sagemaker")
    found: list[JobState] = []
    for number in range(attempts.MAX_ATTEMPTS):
        name = job_name(request.prefix, number)
        description = attempts.describe(sagemaker, request, name)
        if description is None:
            break
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
        try:
            answer: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
        except sagemaker.exceptions.ClientError as error:
            if attempts.is_absent(error):
                raise UnknownName("job", name, [job["TrainingJobName"] for job in self.recent()]) from error
            raise
        return answer

    def recent(self, *, most: int = 50) -> list[dict[str, Any]]:
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

    def logs(self, name: str, *, follow: bool = False, poll_seconds: float = 1.0) -> Iterator[LogLine]:
        """Lines of a job's log; with `follow` until it has ended. A log group that is not there yet is waited for.

        Raises UnknownName for a job that does not exist.
        """
        tail = LogTail(self._connection, name)
        while True:
            ended = self.get(name)["TrainingJobStatus"] in ENDED or not follow
            yield from tail.read()
            if ended:
                return
            time.sleep(poll_seconds)


@dataclass(frozen=True)
class LogLine:
    """A line that a job printed, and when."""

    at: datetime
    text: str


class LogTail:
    """Reads what is new in a job's log streams, by forward tokens."""

    def __init__(self, connection: Connection, job: str) -> None:
        self._logs = connection.client("logs")
        self._job = job
        self._tokens: dict[str, str] = {}

    def read(self) -> Iterator[LogLine]:
        try:
            streams = self._logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self._job}/")
        except self._logs.exceptions.ResourceNotFoundException:
            return
        for stream in streams["logStreams"]:
            yield from self._read_stream(stream["logStreamName"])

    def _read_stream(self, stream: str) -> Iterator[LogLine]:
        while True:
            token = self._tokens.get(stream)
            position = {"nextToken": token} if token else {"startFromHead": True}
            page = self._logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, **position)
            for event in page["events"]:
                at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
                yield LogLine(at, event["message"].rstrip("\n"))
            self._tokens[stream] = page["nextForwardToken"]
            if token == page["nextForwardToken"] or not page["events"]:
                return
