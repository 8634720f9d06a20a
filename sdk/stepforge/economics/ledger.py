"""The ledger: one object in the environment's bucket for each attempt at a job that has ended, written once.

Whoever sees an end books it: the machine `run-job` when it classifies a job, and `stepforge costs` for what it did not
see (jobs submitted by themselves, executions that were stopped). Both write the same entry under the same key, and S3's
conditional write keeps the first. A job of which no spec is left in the bucket is nobody's, and is not found.

An object that is none of ours, or of another version, stands in the way of nobody: it is passed over, and said so.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError
from botocore.exceptions import ClientError as AwsError
from pydantic import ValidationError

from stepforge.absence import existing
from stepforge.artifacts import read_bytes, write_json
from stepforge.contracts.base import first_problem
from stepforge.contracts.economics import LedgerEntry
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.metrics import Count
from stepforge.contracts.names import DOMAIN_TAG, ENVIRONMENT_TAG, MODEL_TAG, RUN_TAG, Keys, job_name
from stepforge.economics import prices
from stepforge.economics.estimate import model_of, units, work_digest
from stepforge.economics.prices import Prices
from stepforge.errors import StepforgeError
from stepforge.logs.metrics import emf
from stepforge.machines import attempts

logger = logging.getLogger(__name__)
ENDED = ("Completed", "Failed", "Stopped")
_AT_ONCE = 8
_SPECS = "specs/"
_SPEC_KEY = re.compile(r"specs/([0-9a-f]{64})/(?:spec|parts)\.json")
_ENTRY_KEY = re.compile(r"ledger/\d{4}-\d\d-\d\d/[a-z]+-[0-9a-f]{12}-a\d+\.json")
LOOKED_THROUGH = 500
"""Newest attempts of each type of job, among which an estimate looks for those of the same work."""
_BLOCK = 64
_LONGEST_JOB = timedelta(days=31)
EXISTS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's answers to a conditional write that came second:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""


def entry_of(job: dict[str, Any], tags: dict[str, str], spec: JobSpec, table: Prices) -> LedgerEntry | None:
    """The entry of a described job; None where it has not ended. Pure: the same end makes the same entry.

    Times are UTC's, as an entry's day is a part of its key: botocore gives them in the caller's own zone.
    """
    if job["TrainingJobStatus"] not in ENDED:
        return None
    resources, arn = job["ResourceConfig"], job["TrainingJobArn"]
    region, ended = arn.split(":")[3], (job.get("TrainingEndTime") or job["LastModifiedTime"]).astimezone(UTC)
    instance = resources.get("InstanceType") or "unknown"
    price = table.find(instance, region, on=ended.date())
    seconds, count = job.get("BillableTimeInSeconds"), resources.get("InstanceCount", 1)
    usd = None if price is None or seconds is None else cost_usd(seconds, count, price.usd_per_hour)
    return LedgerEntry(
        arn=arn,
        job=job["TrainingJobName"],
        type=spec.type,
        stage=getattr(spec.work, "name", spec.type),
        domain=tags.get(DOMAIN_TAG, spec.domain),
        run=tags.get(RUN_TAG, ""),
        environment=tags.get(ENVIRONMENT_TAG, ""),
        region=region,
        status=job["TrainingJobStatus"],
        secondary_status=job.get("SecondaryStatus", ""),
        created=job["CreationTime"].astimezone(UTC),
        ended=ended,
        instance_type=instance,
        instance_count=count,
        spot=job.get("EnableManagedSpotTraining", False),
        training_seconds=job.get("TrainingTimeInSeconds"),
        billable_seconds=seconds,
        usd_per_hour=None if price is None else price.usd_per_hour,
        price_as_of=None if price is None else price.as_of,
        usd=usd,
        work_sha256=work_digest(spec.work),
        units=units(spec.work),
        model=tags.get(MODEL_TAG) or model_of(spec),
    )


def cost_usd(billable_seconds: float, instance_count: int, usd_per_hour: float) -> float:
    """Billable seconds of each instance x instances x price."""
    return billable_seconds * instance_count * usd_per_hour / 3600


def write(s3: Any, entry: LedgerEntry, *, bucket: str, key_arn: str) -> bool:
    """Book an entry. Returns False where it was booked before; the first stays."""
    try:
        key = Keys.ledger(entry.ended.date().isoformat(), entry.job)
        write_json(s3, entry, bucket=bucket, key=key, key_arn=key_arn, IfNoneMatch="*")
    except AwsError as error:
        if error.response["Error"]["Code"] in EXISTS:
            return False
        raise
    return True


def book(
    sagemaker: Any, s3: Any, name: str, *, bucket: str, key_arn: str, table: Prices | None = None
) -> LedgerEntry | None:
    """Book the end of a job. None where it has not ended, does not exist, or its spec is not in this bucket."""
    job = existing(sagemaker.describe_training_job, TrainingJobName=name)
    if job is None:
        return None
    return _book(sagemaker, s3, job, bucket=bucket, key_arn=key_arn, table=table)


def _book(
    sagemaker: Any, s3: Any, job: dict[str, Any], *, bucket: str, key_arn: str, table: Prices | None
) -> LedgerEntry | None:
    uri = job.get("HyperParameters", {}).get("spec_uri", "")
    if job["TrainingJobStatus"] not in ENDED or not uri.startswith(f"s3://{bucket}/"):
        return None
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]}
    spec = JobSpec.model_validate_json(read_bytes(s3, uri))
    entry = entry_of(job, tags, spec, table or prices.load(s3, bucket=bucket))
    if entry is not None and write(s3, entry, bucket=bucket, key_arn=key_arn):
        _tell(entry)
    return entry


def booked(s3: Any, job: dict[str, Any], *, bucket: str) -> LedgerEntry | None:
    """The entry of a described job that was booked already; None where there is none that can be read."""
    ended = job.get("TrainingEndTime") or job.get("LastModifiedTime")
    if job["TrainingJobStatus"] not in ENDED or ended is None:
        return None
    try:
        found = _entry(s3, bucket, Keys.ledger(ended.astimezone(UTC).date().isoformat(), job["TrainingJobName"]))
    except AwsError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None
        raise
    return found if isinstance(found, LedgerEntry) else None


def _tell(entry: LedgerEntry) -> None:
    """One line for each attempt, whoever booked it: on Lambda CloudWatch makes metrics of it."""
    ending = entry.secondary_status if entry.status == "Stopped" else entry.status
    values = {
        Count.JOBS_ENDED: 1,
        Count.BILLABLE_SECONDS: entry.billable_seconds,
        # What is not known is no zero.
        Count.COST_USD: entry.usd,
    }
    dimensions = {"Environment": entry.environment, "Type": entry.type, "Status": ending}
    line = emf(
        {count: value for count, value in values.items() if value is not None},
        dimensions={name: value or "unknown" for name, value in dimensions.items()},
    )
    logger.info("a job has ended", extra={**line, "job": entry.job, "domain": entry.domain, "run": entry.run})


def try_to_book(sagemaker: Any, s3: Any, name: str, *, bucket: str, key_arn: str) -> None:
    """Book the end of a job, and never stand in the way of what its end is asked for: `stepforge costs` heals."""
    try:
        book(sagemaker, s3, name, bucket=bucket, key_arn=key_arn)
    except (AwsError, BotoCoreError, StepforgeError, ValidationError) as error:
        logger.warning("the cost of %s is not booked yet: %s", name, error)


@dataclass(frozen=True)
class Read:
    """Entries in the order in which their jobs ended, and what was passed over: each object's address and why."""

    entries: tuple[LedgerEntry, ...]
    skipped: tuple[str, ...] = ()


def read(s3: Any, *, bucket: str, since: date | None = None) -> Read:
    """All entries of jobs that ended `since` a day (UTC)."""
    keys, stray = _keys(s3, bucket=bucket, since=since)
    return _sorted([*stray, *_entries(s3, bucket, keys)])


def newest(s3: Any, *, bucket: str, enough: Callable[[Sequence[LedgerEntry]], bool]) -> Read:
    """Entries for estimates: the newest of each type of job, until those read are `enough`, 500 of each at most.

    `enough` is asked with all entries of one type that were read, newest days first.
    """
    keys, stray = _keys(s3, bucket=bucket, since=None)
    by_type: dict[str, list[str]] = defaultdict(list)
    for key in reversed(keys):
        by_type[key.rpartition("/")[2].partition("-")[0]].append(key)
    found: list[LedgerEntry | str] = list(stray)
    for of_type in by_type.values():
        looked: list[LedgerEntry | str] = []
        for start in range(0, min(len(of_type), LOOKED_THROUGH), _BLOCK):
            looked += _entries(s3, bucket, of_type[start : start + _BLOCK])
            if enough([entry for entry in looked if isinstance(entry, LedgerEntry)]):
                break
        found += looked
    return _sorted(found)


def _sorted(found: Iterable[LedgerEntry | str]) -> Read:
    entries, skipped = [], []
    for one in found:
        if isinstance(one, LedgerEntry):
            entries.append(one)
        else:
            skipped.append(one)
    return Read(tuple(sorted(entries, key=lambda entry: (entry.ended, entry.job))), tuple(skipped))


def _keys(s3: Any, *, bucket: str, since: date | None) -> tuple[list[str], list[str]]:
    """Keys of entries, oldest day first, and the addresses of what cannot be one."""
    after = {} if since is None else {"StartAfter": Keys.ledger(since.isoformat())}
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=Keys.ledger(), **after)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    stray = [
        f"s3://{bucket}/{key} is no entry of the ledger by its name" for key in keys if not _ENTRY_KEY.fullmatch(key)
    ]
    return [key for key in keys if _ENTRY_KEY.fullmatch(key)], stray


def _entries(s3: Any, bucket: str, keys: Iterable[str]) -> list[LedgerEntry | str]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda key: _entry(s3, bucket, key), keys))


def _entry(s3: Any, bucket: str, key: str) -> LedgerEntry | str:
    """The entry, or why there is none."""
    try:
        entry = LedgerEntry.model_validate_json(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ValidationError as error:
        return f"s3://{bucket}/{key} is no entry of the ledger: {first_problem(error)}"
    if not key.endswith(f"/{entry.job}.json"):
        return f"s3://{bucket}/{key} is no entry of the ledger: it holds that of {entry.job}"
    return entry


@dataclass(frozen=True)
class Healed:
    """What a look for missing entries found."""

    booked: tuple[LedgerEntry, ...] = ()
    under_way: tuple[str, ...] = ()
    """Jobs that have not ended, so that they cost more than the ledger says."""
    looked: int = 0
    """DescribeTrainingJob calls."""
    skipped: tuple[str, ...] = ()
    """Specs that cannot be read, so that what their jobs cost is not known, and why."""


def heal(
    sagemaker: Any,
    s3: Any,
    *,
    bucket: str,
    key_arn: str,
    known: Iterable[LedgerEntry],
    table: Prices,
    since: date | None = None,
) -> Healed:
    """Book the ends that nobody booked, by the specs in the bucket; never a list of training jobs.

    A spec is written before a job is created for it, so none is looked at that is a month (the longest that a job may
    last) older than `since`, and none that was not written again after its newest attempt was Completed.
    """
    attempts_by_prefix: dict[str, dict[int, LedgerEntry]] = defaultdict(dict)
    for entry in known:
        prefix, _, number = entry.job.rpartition("-a")
        attempts_by_prefix[prefix][int(number)] = entry
    prefixes = {prefix.partition("-")[2]: prefix for prefix in attempts_by_prefix}

    def of_spec(spec: tuple[str, datetime]) -> Healed:
        sha, written = spec
        try:
            prefix = prefixes.get(sha[:12]) or _prefix(s3, bucket, sha)
        except (StepforgeError, ValidationError) as error:
            return Healed(skipped=(_unreadable(bucket, sha, error),))
        there = attempts_by_prefix.get(prefix, {})
        found: list[LedgerEntry] = []
        looked = 0
        for number in _unbooked(there, written):
            looked += 1
            job = existing(sagemaker.describe_training_job, TrainingJobName=job_name(prefix, number))
            if job is None:
                break
            if job["TrainingJobStatus"] not in ENDED:
                return Healed(tuple(found), (job["TrainingJobName"],), looked)
            try:
                entry = _book(sagemaker, s3, job, bucket=bucket, key_arn=key_arn, table=table)
            except (StepforgeError, ValidationError) as error:
                return Healed(tuple(found), (), looked, (_unreadable(bucket, sha, error),))
            found += [] if entry is None else [entry]
        return Healed(tuple(found), (), looked)

    specs, stray = _specs(s3, bucket=bucket, since=since)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(of_spec, specs))
    return Healed(
        tuple(entry for result in results for entry in result.booked),
        tuple(name for result in results for name in result.under_way),
        sum(result.looked for result in results),
        (*stray, *(why for result in results for why in result.skipped)),
    )


def _unbooked(there: dict[int, LedgerEntry], written: datetime) -> list[int]:
    """Numbers of attempts that may exist and are not booked, in order."""
    last = max(there, default=-1)
    gaps = [number for number in range(last) if number not in there]
    done = last >= 0 and there[last].status == "Completed" and written <= there[last].created
    return gaps if done else [*gaps, *range(last + 1, attempts.MAX_ATTEMPTS)]


def _specs(s3: Any, *, bucket: str, since: date | None) -> tuple[list[tuple[str, datetime]], list[str]]:
    """Identities of the specs in the bucket with when each was last written, and the addresses of what is none."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_SPECS)
    items = [item for page in pages for item in page.get("Contents", ())]
    stray = [
        f"s3://{bucket}/{i['Key']} is no job's spec by its name" for i in items if not _SPEC_KEY.fullmatch(i["Key"])
    ]
    found = [
        (match[1], item["LastModified"])
        for item in items
        if (match := _SPEC_KEY.fullmatch(item["Key"])) and item["Key"].endswith("/spec.json")
    ]
    return [spec for spec in found if since is None or spec[1].date() >= since - _LONGEST_JOB], [
        f"s3://{bucket}/{key} is no job's spec by its name" for key in stray
    ]


def _unreadable(bucket: str, sha: str, error: Exception) -> str:
    said = first_problem(error) if isinstance(error, ValidationError) else str(error)
    return f"s3://{bucket}/{Keys.spec(sha)} cannot be read, so what its jobs cost is not booked: {said}"


def _prefix(s3: Any, bucket: str, sha: str) -> str:
    return JobSpec.model_validate_json(read_bytes(s3, f"s3://{bucket}/{Keys.spec(sha)}")).prefix
