"""Training jobs: attempts, adoption, outcomes, logs. The job's name is the only lock that SageMaker offers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stepforge.connection import Connection
from stepforge.contracts.jobs import ArtifactRef, JobOutcome, JobSpec
from stepforge.contracts.manifests import MANIFEST, parse_manifest
from stepforge.contracts.names import SPEC_TAG, job_name
from stepforge.contracts.names import split_uri as _split
from stepforge.errors import IdentityConflict, JobFailed, UnknownName

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job; `description` is DescribeTrainingJob's answer, None where it was not created yet."""

    name: str
    number: int
    description: dict[str, Any] | None

    @property
    def status(self) -> str:
        """InProgress, Completed, Failed, Stopping, Stopped, or Absent."""
        return "Absent" if self.description is None else str(self.description["TrainingJobStatus"])


def describe(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """None where there is no such job (SageMaker answers ValidationException for it)."""
    try:
        answer: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
        return answer
    except sagemaker.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "ValidationException" and "not found" in str(error):
            return None
        raise


def attempts(sagemaker: Any, prefix: str) -> list[Attempt]:
    """All attempts at a job, first to last. One Describe for each, and never a List."""
    found: list[Attempt] = []
    while (description := describe(sagemaker, name := job_name(prefix, len(found)))) is not None:
        found.append(Attempt(name, len(found), description))
    return found


def current_attempt(sagemaker: Any, prefix: str, spec_sha256: str) -> Attempt:
    """The attempt to adopt, to wait for, or (Absent) to create.

    Raises IdentityConflict where the name belongs to a job with another spec: it is never renamed around.
    """
    found = attempts(sagemaker, prefix)
    for attempt in found:
        _check_tag(sagemaker, attempt, spec_sha256)
    for attempt in found:
        if attempt.status not in ("Failed", "Stopped"):
            return attempt
    return Attempt(job_name(prefix, len(found)), len(found), None)


def outcome(s3: Any, description: dict[str, Any], *, adopted: bool = False) -> JobOutcome:
    """What a job produced. Raises JobFailed unless it is Completed: Stopped is no success."""
    status, name = description["TrainingJobStatus"], description["TrainingJobName"]
    if status != "Completed":
        raise JobFailed(
            f"job {name} is {status} ({description['SecondaryStatus']}): {description.get('FailureReason', '')}"
        )
    uri = description["ModelArtifacts"]["S3ModelArtifacts"].rstrip("/") + "/"
    bucket, key = _split(uri + MANIFEST)
    manifest = parse_manifest(s3.get_object(Bucket=bucket, Key=key)["Body"].read(), where=uri + MANIFEST)
    return JobOutcome(
        name=name,
        arn=description["TrainingJobArn"],
        type=name.partition("-")[0],
        artifact=ArtifactRef(uri=uri, sha256=manifest.sha256),
        billable_seconds=description.get("BillableTimeInSeconds", 0),
        instance_type=description["ResourceConfig"].get("InstanceType", ""),
        adopted=adopted,
    )


class Jobs:
    """The jobs of an environment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> dict[str, Any]:
        """DescribeTrainingJob's answer. Raises UnknownName."""
        found = describe(self._connection.client("sagemaker"), name)
        if found is None:
            raise UnknownName("job", name, [job["TrainingJobName"] for job in self.recent()])
        return found

    def recent(self, *, most: int = 50) -> list[dict[str, Any]]:
        """Summaries, newest first. For people; nothing that must be fast calls it."""
        answer = self._connection.client("sagemaker").list_training_jobs(
            SortBy="CreationTime", SortOrder="Descending", MaxResults=min(most, 100)
        )
        summaries: list[dict[str, Any]] = answer["TrainingJobSummaries"]
        return summaries

    def find(self, spec: JobSpec) -> Attempt:
        return current_attempt(self._connection.client("sagemaker"), spec.prefix, spec.identity)

    def stop(self, name: str) -> None:
        """Ask a job to stop; it has 120 s to write a checkpoint."""
        self.get(name)
        self._connection.client("sagemaker").stop_training_job(TrainingJobName=name)

    def logs(self, name: str, *, follow: bool = False, poll_seconds: float = 1.0) -> Iterator[str]:
        """Lines of a job's log; with `follow` until it has ended. A log group that is not there yet is waited for."""
        tail = LogTail(self._connection, name)
        while True:
            ended = not follow or self.get(name)["TrainingJobStatus"] in ENDED
            yield from tail.read()
            if ended:
                return
            time.sleep(poll_seconds)


class LogTail:
    """Reads what is new in a job's log streams, by forward tokens."""

    def __init__(self, connection: Connection, job: str) -> None:
        self._logs = connection.client("logs")
        self._job = job
        self._tokens: dict[str, str] = {}

    def read(self) -> Iterator[str]:
        try:
            streams = self._logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self._job}/")
        except self._logs.exceptions.ResourceNotFoundException:
            return
        for stream in streams["logStreams"]:
            yield from self._read_stream(stream["logStreamName"])

    def _read_stream(self, stream: str) -> Iterator[str]:
        while True:
            token = self._tokens.get(stream)
            position = {"nextToken": token} if token else {"startFromHead": True}
            page = self._logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, **position)
            yield from (event["message"].rstrip("\n") for event in page["events"])
            self._tokens[stream] = page["nextForwardToken"]
            if token == page["nextForwardToken"] or not page["events"]:
                return


def _check_tag(sagemaker: Any, attempt: Attempt, spec_sha256: str) -> None:
    assert attempt.description is not None
    arn = attempt.description["TrainingJobArn"]
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
    if tags.get(SPEC_TAG) != spec_sha256:
        raise IdentityConflict(
            f"the name {attempt.name} belongs to a job with spec {tags.get(SPEC_TAG, 'unknown')}, and this one has "
            f"{spec_sha256}: delete or rename nothing; look at that job first"
        )
