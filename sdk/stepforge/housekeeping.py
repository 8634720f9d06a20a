"""`stepforge gc`: what an environment holds and nobody needs any more.

Never named: what a registered version came from (its model, evaluation, dataset, gate, every stage before it, their
specs and uploads), what a run refers to that is under way or ended less than `keep_days` ago, what a job reads or
writes that is under way or was submitted less than `keep_days` ago, and anything that was written less than `YOUNG`
ago. What is unknown is left alone, and told.

An artifact's manifest goes first: whoever adopts the job in that moment sees that it is not whole, and runs it again.
Who was told before that it is whole has written the job's spec before: then the manifest is put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError
from pydantic import ValidationError

from stepforge.absence import existing, is_absent
from stepforge.connection import Connection
from stepforge.contracts.manifests import MANIFEST
from stepforge.contracts.names import endpoint_name, group_prefix, has_prefix, job_name
from stepforge.economics import ledger, prices
from stepforge.errors import EnvironmentUnavailable, InvalidInput, StepforgeError
from stepforge.machines import attempts
from stepforge.machines.deployment import OWNER_TAG
from stepforge.machines.executions import unqualified
from stepforge.needs import UNDER_WAY, Needed, Needs, read_spec

Kind = Literal["checkpoints", "attempt", "artifact", "spec", "pipeline", "upload", "endpoint", "config", "model"]
YOUNG = timedelta(hours=1)
"""Nothing younger is touched, so that a job that starts meanwhile loses nothing."""
PREFIXES = ("checkpoints/", "jobs/", "specs/", "pipelines/", "raw/")
_AT_ONCE = 1_000
_LOCK = "housekeeping/under-way.json"
_LONGEST = timedelta(hours=6)
"""A removal that began longer ago was ended before it could say so."""
_KNOWN = {
    "checkpoints": re.compile(r"checkpoints/[a-z]+-[0-9a-f]{12}"),
    "jobs": re.compile(r"jobs/[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"),
    "specs": re.compile(r"specs/[0-9a-f]{64}"),
    "pipelines": re.compile(r"pipelines/([a-z]+-)?[0-9a-f]{64}\.json"),
    "raw": re.compile(r"raw/[a-z_-]+/[0-9a-f]{64}"),
}
"""Names of groups that stepforge makes."""
_REFERRED: tuple[Kind, ...] = ("artifact", "spec", "pipeline", "upload")


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
    """Looks at an environment; `removable` says what can go, `remove` makes it go.

    After either, `skipped` says what was passed over because it cannot be read, or is no object of stepforge's.
    """

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
        self._written: dict[str, datetime] = {}
        self._rewritten: set[str] = set()
        self.skipped: list[str] = []

    def removable(self) -> list[Removable]:
        """Largest first."""
        self.skipped, self._jobs = [], {}
        # Before anything is judged: who writes a spec or a pipeline later is seen by its time.
        self._written = self._submissions()
        groups = [group for group in self._groups() if self._is_known(group)]
        needs = self._needs(groups)
        self.skipped += needs.skipped
        found = [item for group in groups if (item := self._judge(group, needs)) is not None]
        return sorted([*found, *self._serving()], key=lambda item: (-item.bytes, item.kind, item.name))

    def remove(self, items: list[Removable]) -> list[Removable]:
        """Remove those of `items` that a second look still finds to be removable as they are; returns them.

        Attempts of which nobody booked the cost are booked before their spec goes. Raises EnvironmentUnavailable
        while another call removes.
        """
        gone: list[Removable] = []
        with self._alone():
            look = self._again(set())
            still = {(item.kind, item.name): item for item in look.removable()}
            try:
                for item in items:
                    if item.kind in _REFERRED and (new := look._submitted_since()):
                        look = self._again(look._rewritten | new)
                        still = {(one.kind, one.name): one for one in look.removable()}
                    if still.get((item.kind, item.name)) == item and look._remove(item):
                        gone.append(item)
            finally:
                self.skipped = list(dict.fromkeys([*self.skipped, *look.skipped]))
        return gone

    def _again(self, rewritten: set[str]) -> Housekeeping:
        look = Housekeeping(self._connection, keep_days=(self._now - self._old).days)
        look._rewritten = rewritten
        return look

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One removal at a time, by a conditional write; one that was ended in the middle gives way after 6 h."""
        began = datetime.now(UTC)
        body = json.dumps({"began": began.isoformat()}).encode()
        request = {"Bucket": self._bucket, "Key": _LOCK, "ContentType": "application/json"}
        key = self._connection.environment.key_arn
        encrypted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
        try:
            self._s3.put_object(**request, Body=body, **encrypted, IfNoneMatch="*")
        except AwsError as error:
            if error.response["Error"]["Code"] not in ledger.EXISTS:
                raise
            there = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=_LOCK).get("Contents", [])
            since = there[0]["LastModified"] if there else began
            if began - since < _LONGEST:
                raise EnvironmentUnavailable(
                    f"another `stepforge gc --apply` has been removing since {since:%Y-%m-%d %H:%M:%S} UTC: run this "
                    f"again when it has ended. If it was cut off, delete s3://{self._bucket}/{_LOCK}"
                ) from error
            self._s3.put_object(**request, Body=body, **encrypted, IfMatch=there[0]["ETag"])
        try:
            yield
        finally:
            self._s3.delete_object(Bucket=self._bucket, Key=_LOCK)

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
            self._jobs[name] = existing(self._sagemaker.describe_training_job, TrainingJobName=name)
        return self._jobs[name]

    def _attempts(self, prefix: str) -> list[dict[str, Any]]:
        """Without those of another environment in this account."""
        found: list[dict[str, Any]] = []
        for number in range(attempts.MAX_ATTEMPTS):
            if (job := self._job(job_name(prefix, number))) is None:
                break
            if not attempts.is_anothers(job, bucket=self._bucket):
                found.append(job)
        return found

    # What is needed

    def _is_known(self, group: Group) -> bool:
        kind = group.prefix.partition("/")[0]
        if _KNOWN[kind].fullmatch(group.prefix):
            return True
        self.skipped.append(f"s3://{self._bucket}/{group.prefix} is nothing that stepforge made, by its name: it stays")
        return False

    def _needs(self, groups: list[Group]) -> Needs:
        recent = [
            group.prefix
            for group in groups
            if group.prefix.startswith(("specs/", "pipelines/"))
            and (f"{group.prefix}/spec.json" in group.keys or group.prefix.startswith("pipelines/"))
            and (group.newest >= self._old or not self._rewritten.isdisjoint(group.keys))
        ]
        return Needed(self._connection, self._job, ended_since=self._old).find(recent)

    def _submissions(self) -> dict[str, datetime]:
        """When each spec and each pipeline was written last: what is submitted, even a second time, writes one."""
        pages = self._s3.get_paginator("list_objects_v2")
        return {
            item["Key"]: item["LastModified"]
            for prefix in ("specs/", "pipelines/")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix)
            for item in page.get("Contents", ())
        }

    def _submitted_since(self) -> set[str]:
        """Keys of what was submitted since this look began."""
        return {key for key, at in self._submissions().items() if self._written.get(key) != at}

    # What can go

    def _judge(self, group: Group, needs: Needs) -> Removable | None:
        if group.newest > self._now - YOUNG or group.prefix in needs.groups:
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
        if judged is None or (judged[0] in _REFERRED and (needs.blind or needs.holds(group.prefix))):
            return None
        return Removable(judged[0], group.prefix, judged[1], group.bytes, group.keys)

    def _judge_checkpoints(self, group: Group, prefix: str) -> tuple[Kind, str] | None:
        known = self._attempts(prefix)
        if any(job["TrainingJobStatus"] in UNDER_WAY for job in known):
            return None
        if any(attempts.succeeded(job) for job in known):
            return "checkpoints", "the job is done"
        if group.newest < self._old:
            return "checkpoints", "nobody went on with the job since"
        return None

    def _judge_output(self, group: Group, name: str) -> tuple[Kind, str] | None:
        job = self._job(name)
        if job is None or job["TrainingJobStatus"] in UNDER_WAY:
            return None
        if not attempts.succeeded(job):
            return "attempt", f"the attempt ended as {job['TrainingJobStatus']}"
        return ("artifact", "no version and no run of late refers to it") if group.newest < self._old else None

    def _judge_other(self, group: Group, _: str) -> tuple[Kind, str] | None:
        if group.newest >= self._old:
            return None
        if f"{group.prefix}/spec.json" in group.keys and isinstance(
            why := read_spec(self._s3, self._bucket, group.prefix), str
        ):
            self.skipped.append(f"{why}; it stays, as what its jobs cost cannot be booked")
            return None
        kinds: dict[str, Kind] = {"specs": "spec", "pipelines": "pipeline", "raw": "upload"}
        return kinds[group.prefix.partition("/")[0]], "no version and no run of late refers to it"

    def _serving(self) -> Iterator[Removable]:
        """Endpoints of promotions that ended, and configurations and models that no endpoint has."""
        if self._is_promoting():
            return
        used: set[str] = set()
        for name in self._names("list_endpoints", "Endpoints", "EndpointName"):
            endpoint = self._sagemaker.describe_endpoint(EndpointName=name)
            tags = self._sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
            young = endpoint["LastModifiedTime"] > self._now - YOUNG
            abandoned = not young and name == endpoint_name(name.removesuffix("-candidate"), candidate=True)
            if abandoned and any(tag["Key"] == OWNER_TAG for tag in tags):
                yield Removable("endpoint", name, "the promotion that tried it has ended")
                continue
            used.add(endpoint["EndpointConfigName"])
        for name in self._names("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"):
            config = self._sagemaker.describe_endpoint_config(EndpointConfigName=name)
            if name in used:
                models = {variant.get("ModelName", "") for variant in config["ProductionVariants"]}
                # A variant without a model has inference components, which name theirs.
                used |= models if models != {""} else self._models_of_components()
            elif config["CreationTime"] < self._old:
                yield Removable("config", name, "no endpoint has it")
        for name in self._names("list_models", "Models", "ModelName"):
            if name not in used and self._sagemaker.describe_model(ModelName=name)["CreationTime"] < self._old:
                yield Removable("model", name, "no endpoint has it")

    def _models_of_components(self) -> set[str]:
        names = self._names("list_inference_components", "InferenceComponents", "InferenceComponentName")
        described = (self._sagemaker.describe_inference_component(InferenceComponentName=name) for name in names)
        return {component["Specification"].get("ModelName", "") for component in described}

    def _is_promoting(self) -> bool:
        states, machine = self._connection.client("stepfunctions"), self._connection.environment.machines["promote"]
        return bool(states.list_executions(stateMachineArn=unqualified(machine), statusFilter="RUNNING")["executions"])

    def _names(self, operation: str, items: str, key: str) -> list[str]:
        """This environment's: another one of the account has names, and promotions, of its own."""
        pages, prefix = self._sagemaker.get_paginator(operation).paginate(), group_prefix(self._connection.name)
        return [item[key] for page in pages for item in page[items] if has_prefix(item[key], prefix)]

    # How it goes

    def _remove(self, item: Removable) -> bool:
        """Whether this call removed it: what is needed all of a sudden, or went meanwhile, it did not."""
        if item.kind in ("endpoint", "config", "model"):
            return not self._is_promoting() and self._delete_served(item)
        if item.kind == "spec" and f"{item.name}/spec.json" in item.keys and not self._booked(item.name):
            return False
        if item.kind == "artifact":
            return self._delete_artifact(item)
        if item.kind == "spec" and self._submitted_since():
            return False
        first = [key for key in item.keys if key.endswith(f"/{MANIFEST}")]
        self._delete_objects(first)
        self._delete_objects([key for key in item.keys if key not in first])
        return True

    def _delete_served(self, item: Removable) -> bool:
        delete: dict[str, Callable[[], object]] = {
            "endpoint": lambda: self._sagemaker.delete_endpoint(EndpointName=item.name),
            "config": lambda: self._sagemaker.delete_endpoint_config(EndpointConfigName=item.name),
            "model": lambda: self._sagemaker.delete_model(ModelName=item.name),
        }
        try:
            delete[item.kind]()
        except AwsError as error:
            if is_absent(error):
                return False
            raise
        return True

    def _delete_artifact(self, item: Removable) -> bool:
        """The manifest first and by itself; back with it where somebody submitted in that very moment."""
        manifests = {
            key: self._s3.get_object(Bucket=self._bucket, Key=key)
            for key in item.keys
            if key.endswith(f"/output/model/{MANIFEST}")
        }
        held = {key: (answer["Body"].read(), answer["ContentType"]) for key, answer in manifests.items()}
        self._delete_objects(list(held))
        if self._submitted_since():
            key_arn = self._connection.environment.key_arn
            for key, (body, kind) in held.items():
                self._s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentType=kind,
                    ServerSideEncryption="aws:kms",
                    SSEKMSKeyId=key_arn,
                )
            return False
        self._delete_objects([key for key in item.keys if key not in held])
        return True

    def _booked(self, group: str) -> bool:
        """Book what the attempts of a spec cost; without the spec nobody could. False where it cannot be booked."""
        spec = read_spec(self._s3, self._bucket, group)
        if isinstance(spec, str):
            self.skipped.append(spec)
            return False
        table, key_arn = prices.load(self._s3, bucket=self._bucket), self._connection.environment.key_arn
        for job in self._attempts(spec.prefix):
            name = job["TrainingJobName"]
            try:
                ledger.book(self._sagemaker, self._s3, name, bucket=self._bucket, key_arn=key_arn, table=table)
            except (StepforgeError, ValidationError) as error:
                self.skipped.append(f"s3://{self._bucket}/{group} stays, as the cost of {name} is not booked: {error}")
                return False
        return True

    def _delete_objects(self, keys: list[str]) -> None:
        for start in range(0, len(keys), _AT_ONCE):
            self._delete_at_once(keys[start : start + _AT_ONCE])

    def _delete_at_once(self, keys: list[str]) -> None:
        objects = [{"Key": key} for key in keys]
        answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
        if refused := answer.get("Errors"):
            one = refused[0]
            raise InvalidInput(f"{one['Key']} could not be deleted: {one['Code']} {one['Message']}: allow it to you")
