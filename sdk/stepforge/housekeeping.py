"""`stepforge gc`: what an environment holds and nobody needs any more.

Never named: what a registered version came from (its model, evaluation, dataset, gate, every stage before it, their
specs and uploads), what a run refers to that is under way or ended less than `keep_days` ago, what a job writes that is
under way, and anything that was written less than `YOUNG` ago. What is unknown is left alone.

An artifact's manifest goes first: whoever adopts the job in that moment sees that it is not whole, and runs it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge import attempts, executions
from stepforge.artifacts import read_bytes
from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.names import Keys, endpoint_name, job_name, split_uri
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.registry import PackageMetadata
from stepforge.deployment import OWNER_TAG
from stepforge.errors import InvalidInput
from stepforge.packages import summaries

YOUNG = timedelta(hours=1)
"""Nothing younger is touched, so that a job that starts meanwhile loses nothing."""
PREFIXES = ("checkpoints/", "jobs/", "specs/", "pipelines/", "raw/")
_UNDER_WAY = ("InProgress", "Stopping")
_AT_ONCE = 1_000
Kind = Literal["checkpoints", "attempt", "artifact", "spec", "pipeline", "upload", "endpoint", "config", "model"]


@dataclass(frozen=True)
class Group:
    """Objects that live and die together: everything below one prefix of two or three parts."""

    prefix: str
    keys: tuple[str, ...]
    bytes: int
    newest: datetime


@dataclass(frozen=True)
class Removable:
    """What can go, and why. `bytes` is 0 for what is no object."""

    kind: Kind
    name: str
    reason: str
    bytes: int = 0
    keys: tuple[str, ...] = field(default=(), repr=False)


class Housekeeping:
    """Looks at an environment once; `removable` says what can go, `remove` makes it go."""

    def __init__(self, connection: Connection, *, keep_days: int = 30, now: datetime | None = None) -> None:
        """`keep_days`: how long what only an ended run refers to is kept. Raises InvalidInput below 1."""
        if keep_days < 1:
            raise InvalidInput(f"keep_days {keep_days} must be 1 or more: a run that just ended may be started again")
        self._connection = connection
        self._s3, self._sagemaker = connection.client("s3"), connection.client("sagemaker")
        self._bucket = connection.environment.bucket
        self._now = now or datetime.now(UTC)
        self._old = self._now - timedelta(days=keep_days)
        self._jobs: dict[str, dict[str, Any] | None] = {}

    def removable(self) -> list[Removable]:
        """Largest first."""
        groups, kept = list(self._groups()), self._kept()
        found = [item for group in groups if (item := self._judge(group, kept)) is not None]
        return sorted([*found, *self._serving()], key=lambda item: (-item.bytes, item.kind, item.name))

    def remove(self, items: list[Removable]) -> list[Removable]:
        """Remove those of `items` that a second look still finds to be removable as they are; returns them."""
        again = Housekeeping(self._connection, keep_days=(self._now - self._old).days)
        still = {(item.kind, item.name): item for item in again.removable()}
        gone = [item for item in items if still.get((item.kind, item.name)) == item]
        for item in gone:
            self._delete(item)
        return gone

    # What there is

    def _groups(self) -> Iterator[Group]:
        pages = self._s3.get_paginator("list_objects_v2")
        for prefix in PREFIXES:
            depth = {"raw/": 3, "pipelines/": 2}.get(prefix, 2)
            found: dict[str, list[dict[str, Any]]] = {}
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    found.setdefault("/".join(item["Key"].split("/")[:depth]), []).append(item)
            for name, items in found.items():
                keys = tuple(item["Key"] for item in items)
                newest = max(item["LastModified"] for item in items)
                yield Group(name, keys, sum(item["Size"] for item in items), newest)

    def _job(self, name: str) -> dict[str, Any] | None:
        if name not in self._jobs:
            try:
                self._jobs[name] = self._sagemaker.describe_training_job(TrainingJobName=name)
            except AwsError as error:
                if not attempts.is_absent(error):
                    raise
                self._jobs[name] = None
        return self._jobs[name]

    def _attempts(self, prefix: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < attempts.MAX_ATTEMPTS and (job := self._job(job_name(prefix, len(found)))) is not None:
            found.append(job)
        return found

    # What is needed

    def _kept(self) -> set[str]:
        """Prefixes of groups that a version, a run or a job under way refers to, directly or through others."""
        kept: set[str] = set()
        waiting: list[str] = []
        for metadata in self._versions():
            kept.add(Keys.pipeline(metadata.pipeline_sha256))
            waiting += [f"jobs/{metadata.training_job_arn.rpartition('/')[2]}", _group_of(metadata.evaluation_uri)]
        for spec in self._runs():
            kept.add(Keys.pipeline(spec.identity))
            references = (spec.records, spec.model_artifact, spec.plugin_artifact)
            waiting += [_group_of(reference.uri) for reference in references if reference is not None]
            waiting += [f"jobs/{name}" for name in self._jobs_of(spec)]
        while waiting:
            if (group := waiting.pop()) in kept:
                continue
            kept.add(group)
            if group.startswith("jobs/"):
                spec_group, inputs = self._needs(group.removeprefix("jobs/"))
                kept |= spec_group
                waiting += inputs
        return kept

    def _versions(self) -> Iterator[PackageMetadata]:
        pages = self._sagemaker.get_paginator("list_model_package_groups").paginate()
        for group in [g["ModelPackageGroupName"] for page in pages for g in page["ModelPackageGroupSummaryList"]]:
            for summary in summaries(self._sagemaker, group):
                package = self._sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
                if (metadata := PackageMetadata.of(package.get("CustomerMetadataProperties", {}))) is not None:
                    yield metadata

    def _runs(self) -> Iterator[PipelineSpec]:
        """Pipelines of the runs that are under way or ended lately."""
        states, machine = self._connection.client("stepfunctions"), self._connection.environment.machines["train"]
        for page in states.get_paginator("list_executions").paginate(stateMachineArn=machine):
            for run in page["executions"]:
                if run["status"] != "RUNNING" and run.get("stopDate", self._now) < self._old:
                    continue
                execution = executions.describe(states, run["executionArn"])
                uri = (execution.input or {}).get("pipeline_uri") if execution is not None else None
                if uri is not None:
                    yield PipelineSpec.model_validate_json(read_bytes(self._s3, uri))

    def _jobs_of(self, spec: PipelineSpec) -> list[str]:
        from stepforge.pipelines import Walk

        return [planned.attempt.name for planned in Walk(self._connection, spec).all()]

    def _needs(self, job: str) -> tuple[set[str], list[str]]:
        """The group of a job's spec, and those of its inputs. Nothing for a job that does not exist."""
        described = self._job(job)
        uri = (described or {}).get("HyperParameters", {}).get("spec_uri")
        if uri is None:
            return set(), []
        try:
            spec = JobSpec.model_validate_json(read_bytes(self._s3, uri))
        except InvalidInput:
            return set(), []
        return {_group_of(uri)}, [_group_of(reference.uri) for reference in spec.inputs.values()]

    # What can go

    def _judge(self, group: Group, kept: set[str]) -> Removable | None:
        if group.newest > self._now - YOUNG or group.prefix in kept:
            return None
        kind, _, name = group.prefix.partition("/")
        judge: Callable[[Group, str], tuple[Kind, str] | None] = {
            "checkpoints": self._judge_checkpoints,
            "jobs": self._judge_output,
            "specs": self._judge_other,
            "pipelines": self._judge_other,
            "raw": self._judge_other,
        }[kind]
        judged = judge(group, name)
        return None if judged is None else Removable(judged[0], group.prefix, judged[1], group.bytes, group.keys)

    def _judge_checkpoints(self, group: Group, prefix: str) -> tuple[Kind, str] | None:
        known = self._attempts(prefix)
        if any(job["TrainingJobStatus"] in _UNDER_WAY for job in known):
            return None
        if any(attempts.succeeded(job) for job in known):
            return "checkpoints", "the job is done"
        if group.newest < self._old:
            return "checkpoints", "nobody went on with the job since"
        return None

    def _judge_output(self, group: Group, name: str) -> tuple[Kind, str] | None:
        job = self._job(name)
        if job is None or job["TrainingJobStatus"] in _UNDER_WAY:
            return None
        if not attempts.succeeded(job):
            return "attempt", f"the attempt ended as {job['TrainingJobStatus']}"
        return ("artifact", "no version and no run of late refers to it") if group.newest < self._old else None

    def _judge_other(self, group: Group, _: str) -> tuple[Kind, str] | None:
        if group.newest >= self._old:
            return None
        kinds: dict[str, Kind] = {"specs": "spec", "pipelines": "pipeline", "raw": "upload"}
        return kinds[group.prefix.partition("/")[0]], "no version and no run of late refers to it"

    def _serving(self) -> Iterator[Removable]:
        """Endpoints of promotions that ended, and configurations and models that no endpoint has."""
        states, environment = self._connection.client("stepfunctions"), self._connection.environment
        running = states.list_executions(stateMachineArn=environment.machines["promote"], statusFilter="RUNNING")
        if running["executions"]:
            return
        used: set[str] = set()
        for name in self._names("list_endpoints", "Endpoints", "EndpointName"):
            endpoint = self._sagemaker.describe_endpoint(EndpointName=name)
            tags = self._sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
            abandoned = name == endpoint_name(name.removesuffix("-candidate"), candidate=True)
            if abandoned and any(tag["Key"] == OWNER_TAG for tag in tags):
                yield Removable("endpoint", name, "the promotion that tried it has ended")
                continue
            used.add(endpoint["EndpointConfigName"])
        for name in self._names("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"):
            config = self._sagemaker.describe_endpoint_config(EndpointConfigName=name)
            if name in used:
                used |= {variant["ModelName"] for variant in config["ProductionVariants"]}
            elif config["CreationTime"] < self._old:
                yield Removable("config", name, "no endpoint has it")
        for name in self._names("list_models", "Models", "ModelName"):
            if name not in used and self._sagemaker.describe_model(ModelName=name)["CreationTime"] < self._old:
                yield Removable("model", name, "no endpoint has it")

    def _names(self, operation: str, items: str, key: str) -> list[str]:
        pages = self._sagemaker.get_paginator(operation).paginate()
        return [item[key] for page in pages for item in page[items] if item[key].startswith("stepforge-")]

    def _delete(self, item: Removable) -> None:
        if item.kind == "endpoint":
            self._sagemaker.delete_endpoint(EndpointName=item.name)
        elif item.kind == "config":
            self._sagemaker.delete_endpoint_config(EndpointConfigName=item.name)
        elif item.kind == "model":
            self._sagemaker.delete_model(ModelName=item.name)
        else:
            keys = sorted(item.keys, key=lambda key: not key.endswith(f"/{MANIFEST}"))
            # The manifests by themselves: a request deletes in no order.
            first = [key for key in keys if key.endswith(f"/{MANIFEST}")]
            rest = keys[len(first) :]
            for part in (first, *(rest[start : start + _AT_ONCE] for start in range(0, len(rest), _AT_ONCE))):
                if part:
                    self._delete_objects(part)

    def _delete_objects(self, keys: list[str]) -> None:
        objects = [{"Key": key} for key in keys]
        answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
        if refused := answer.get("Errors"):
            one = refused[0]
            raise InvalidInput(f"{one['Key']} could not be deleted: {one['Code']} {one['Message']}: allow it to you")


def _group_of(uri: str) -> str:
    """The group of an object's or a folder's address."""
    parts = split_uri(uri)[1].split("/")
    return "/".join(parts[: 3 if parts[0] == "raw" else 2])
