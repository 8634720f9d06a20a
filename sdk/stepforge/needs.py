"""What of an environment somebody needs: versions, runs, jobs that are under way, and what was submitted of late.

Who needs something is asked where that is certain: SageMaker says what a job reads, whether or not its spec can still
be read. What cannot be read itself is passed over and told; where it may need anything, everything is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from stepforge.artifacts import read_bytes
from stepforge.connection import Connection
from stepforge.contracts.base import first_problem
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.names import Keys, group_prefix, has_prefix, split_uri
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.registry import ExternalLineage, PackageMetadata
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import StepforgeError
from stepforge.machines import executions
from stepforge.machines.packages import summaries

UNDER_WAY = ("InProgress", "Stopping")
_AT_ONCE = 8
_ATTEMPT = re.compile(r"-a\d+$")
_JOB = re.compile(rf"({'|'.join(WORK_TYPES)})-[0-9a-f]{{12}}-a\d+")
Described = Callable[[str], dict[str, Any] | None]


@dataclass(frozen=True)
class Needs:
    """Groups of objects that stay, and what could not be read."""

    groups: frozenset[str]
    jobs: frozenset[str]
    """Prefixes of jobs that were submitted of late: whoever did was told that what they made is there."""
    skipped: tuple[str, ...]
    """Objects that were passed over, and why."""
    blind: str = ""
    """A run that is under way and whose pipeline cannot be read: it may need any artifact, spec or upload."""

    def holds(self, group: str) -> bool:
        """Whether a group stays, but for what a failed attempt has left."""
        return group in self.groups or _ATTEMPT.sub("", group.removeprefix("jobs/")) in self.jobs


def group_of(uri: str) -> str:
    """The group of an object's or a folder's address: what lives and dies together."""
    parts = split_uri(uri)[1].split("/")
    return "/".join(parts[: 3 if parts[0] == "raw" else 2])


def read_spec(s3: Any, bucket: str, group: str) -> JobSpec | str:
    """The spec in a group below `specs/`, or why it cannot be read."""
    uri = f"s3://{bucket}/{group}/spec.json"
    try:
        return parse_spec(read_bytes(s3, uri), uri)
    except StepforgeError as error:
        return str(error)


def parse_spec(text: bytes, uri: str) -> JobSpec | str:
    try:
        return JobSpec.model_validate_json(text)
    except ValidationError as error:
        return f"{uri} is no spec of this version: {first_problem(error)}"


class Needed:
    """Asks once. `described` answers for DescribeTrainingJob, None for a job that does not exist."""

    def __init__(self, connection: Connection, described: Described, *, ended_since: datetime) -> None:
        self._connection, self._described, self._since = connection, described, ended_since
        self._s3, self._sagemaker = connection.client("s3"), connection.client("sagemaker")
        self._bucket = connection.environment.bucket
        self._skipped: list[str] = []
        self._blind = ""

    def find(self, recent: Iterable[str]) -> Needs:
        """`recent`: groups of the specs and pipelines that were written of late, for jobs by themselves too."""
        kept: set[str] = set()
        waiting: list[str] = [*self._of_versions(kept), *self._of_runs(kept), *self._of_jobs_under_way(kept)]
        jobs: set[str] = set()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for group, prefix, reads in pool.map(self._of_submission, recent):
                kept.add(group)
                jobs |= {prefix} - {""}
                waiting += reads
        while waiting:
            if (group := waiting.pop()) in kept:
                continue
            kept.add(group)
            if group.startswith("jobs/"):
                waiting += self._read_by(self._described(group.removeprefix("jobs/")))
        return Needs(frozenset(kept), frozenset(jobs), tuple(dict.fromkeys(self._skipped)), self._blind)

    def _of_submission(self, group: str) -> tuple[str, str, list[str]]:
        """A group below `specs/` or `pipelines/`, the prefix of its job, and what it names: of another version too."""
        is_spec = group.startswith("specs/")
        uri = f"s3://{self._bucket}/{group}" + ("/spec.json" if is_spec else "")
        try:
            text = read_bytes(self._s3, uri)
        except StepforgeError as error:
            self._skipped.append(str(error))
            return group, "", []
        found = re.findall(rf's3://{re.escape(self._bucket)}/[^"\s]+', text.decode(errors="replace"))
        prefix = ""
        if is_spec:
            spec = parse_spec(text, uri)
            if isinstance(spec, str):
                self._skipped.append(spec)
            else:
                prefix = spec.prefix
        return group, prefix, [group_of(one) for one in found]

    def _read_by(self, job: dict[str, Any] | None) -> list[str]:
        """Groups of what a job reads: its spec and its inputs. Nothing for a job that does not exist."""
        sources = [c["DataSource"].get("S3DataSource", {}) for c in (job or {}).get("InputDataConfig", ())]
        uris = [source.get("S3Uri", "") for source in sources]
        return [group_of(uri) for uri in uris if uri.startswith(f"s3://{self._bucket}/")]

    def _of_versions(self, kept: set[str]) -> Iterator[str]:
        pages = self._sagemaker.get_paginator("list_model_package_groups").paginate()
        groups = [g["ModelPackageGroupName"] for page in pages for g in page["ModelPackageGroupSummaryList"]]
        for group in (name for name in groups if has_prefix(name, group_prefix(self._connection.name))):
            for summary in summaries(self._sagemaker, group):
                package = self._sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
                properties = package.get("CustomerMetadataProperties", {})
                # What a paid tune was made of lies below `finetune/`, where nothing is removed.
                if (metadata := PackageMetadata.of(properties)) is None or ExternalLineage.of(properties) is not None:
                    continue
                kept.add(Keys.pipeline(metadata.pipeline_sha256))
                yield f"jobs/{metadata.training_job_arn.rpartition('/')[2]}"
                yield group_of(metadata.evaluation_uri)

    def _of_runs(self, kept: set[str]) -> Iterator[str]:
        """Of the runs that are under way or ended lately."""
        from stepforge.pipelines import Walk

        states, machine = self._connection.client("stepfunctions"), self._connection.environment.machines["train"]
        for page in states.get_paginator("list_executions").paginate(stateMachineArn=executions.unqualified(machine)):
            for run in page["executions"]:
                if run["status"] != "RUNNING" and "stopDate" in run and run["stopDate"] < self._since:
                    continue
                execution = executions.describe(states, run["executionArn"])
                uri = (execution.input or {}).get("pipeline_uri") if execution is not None else None
                if uri is None:
                    continue
                kept.add(group_of(uri))
                try:
                    spec = PipelineSpec.model_validate_json(read_bytes(self._s3, uri))
                except (ValidationError, StepforgeError) as error:
                    self._unreadable(run, uri, error)
                    continue
                references = (spec.records, spec.model_artifact, spec.plugin_artifact)
                yield from (group_of(reference.uri) for reference in references if reference is not None)
                yield from (f"jobs/{planned.attempt.name}" for planned in Walk(self._connection, spec).all())

    def _unreadable(self, run: dict[str, Any], uri: str, error: Exception) -> None:
        said = first_problem(error) if isinstance(error, ValidationError) else str(error)
        self._skipped.append(f"{uri}, the pipeline of {run['name']}, cannot be read: {said}")
        if run["status"] == "RUNNING":
            self._blind = run["name"]

    def _of_jobs_under_way(self, kept: set[str]) -> Iterator[str]:
        """Whoever submitted them: what a job by itself needs is in no run."""
        pages = self._sagemaker.get_paginator("list_training_jobs")
        for status in UNDER_WAY:
            for page in pages.paginate(StatusEquals=status):
                for summary in page["TrainingJobSummaries"]:
                    name = summary["TrainingJobName"]
                    # The account may have others, and the caller need not be allowed to describe them.
                    if not _JOB.fullmatch(name):
                        continue
                    reads = self._read_by(self._described(name))
                    kept.update([f"jobs/{name}"] if reads else [])
                    yield from reads
