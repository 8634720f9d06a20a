"""The machines `evaluate` and `dataset`: the spec that they are started with, the jobs that it asks for, and how a
dataset is joined from its parts.

A dataset's parts are joined without reading a record: shards are copied within S3 under their new numbers, and the
manifest, written last, keeps the digests that their jobs wrote. What only records show, the gate finds afterwards.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, TypeVar

from stepforge import errors
from stepforge.artifacts import folder, read_manifest, write_json
from stepforge.contracts.base import Contract
from stepforge.contracts.jobs import ArtifactRef, JobRequest, JobSpec
from stepforge.contracts.manifests import MANIFEST, FileEntry, Manifest
from stepforge.contracts.names import Keys, split_uri
from stepforge.contracts.records import SPLITS
from stepforge.contracts.requests import AssemblySpec, EvaluationSpec, Part, SpecRef
from stepforge.contracts.resources import Resources
from stepforge.contracts.solutions import ParsingReport
from stepforge.economics.estimate import model_of
from stepforge.errors import IntegrityError
from stepforge.machines.planning import job_request, job_tags, put_spec, read_started

MOST_WORDS = 8_192
"""More different words than this are no vocabulary for a model that starts from scratch."""
_SHARD = re.compile(r"records/([a-z_]+)-(\d{5})\.jsonl")
Spec = TypeVar("Spec", EvaluationSpec, AssemblySpec)


class PlanRequest(Contract):
    """Input of the handlers that plan: the spec, and the execution that asks."""

    spec: SpecRef
    run: str = ""


class PlannedParts(Contract):
    """Where the jobs of the parts lie, as the Map reads them."""

    bucket: str
    key: str
    count: int


class JoinRequest(Contract):
    spec: SpecRef
    parts: tuple[Part, ...]
    run: str = ""


class Joined(Contract):
    """The joined dataset, and the job that gates it."""

    dataset: ArtifactRef
    counts: dict[str, int]
    job: JobRequest


def read_spec(s3: Any, ref: SpecRef, model: type[Spec]) -> Spec:
    """The spec that an execution names. Raises IdentityConflict where the object was replaced by another spec."""
    return read_started(s3, ref.spec_uri, ref.spec_sha256, model, called=model.__name__)


def plan_evaluation(s3: Any, request: PlanRequest, *, bucket: str, key_arn: str, environment: str = "") -> JobRequest:
    """Write the spec of the evaluation's job. The same call twice writes the same bytes."""
    spec = read_spec(s3, request.spec, EvaluationSpec)
    put_spec(s3, spec.job, bucket=bucket, key_arn=key_arn)
    return _request(spec.job, spec.image, spec.resources, request, bucket=bucket, environment=environment)


def plan_parts(s3: Any, request: PlanRequest, *, bucket: str, key_arn: str, environment: str = "") -> PlannedParts:
    """Write the spec of each part's job, and the list of them that the machine maps over."""
    spec = read_spec(s3, request.spec, AssemblySpec)
    resources = spec.resources.get("dataset", Resources())
    jobs = []
    for job in spec.jobs:
        put_spec(s3, job, bucket=bucket, key_arn=key_arn)
        jobs.append(_request(job, spec.image, resources, request, bucket=bucket, environment=environment))
    key = Keys.parts(spec.identity)
    write_json(s3, [job.model_dump(mode="json") for job in jobs], bucket=bucket, key=key, key_arn=key_arn)
    return PlannedParts(bucket=bucket, key=key, count=len(jobs))


def join_parts(s3: Any, request: JoinRequest, *, bucket: str, key_arn: str, environment: str = "") -> Joined:
    """Join the parts into one dataset below `raw/dataset/{digest}/`, and plan its gate.

    Raises the error of the first part that failed, IntegrityError where parts do not fit each other.
    """
    spec = read_spec(s3, request.spec, AssemblySpec)
    artifacts = _sound(spec, request.parts)
    manifest, placed = join(s3, artifacts)
    prefix = Keys.upload("dataset", manifest.sha256)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_arn}
    for part, path, entry in placed:
        from_bucket, from_prefix = split_uri(folder(artifacts[part].uri))
        source = {"Bucket": from_bucket, "Key": from_prefix + path}
        s3.copy_object(Bucket=bucket, Key=prefix + entry.path, CopySource=source, **encryption)
    write_json(s3, manifest, bucket=bucket, key=prefix + MANIFEST, key_arn=key_arn)
    dataset = ArtifactRef(uri=f"s3://{bucket}/{prefix}", sha256=manifest.sha256)
    gate = spec.gate_of(dataset)
    put_spec(s3, gate, bucket=bucket, key_arn=key_arn)
    resources = spec.resources.get("gate", Resources())
    return Joined(
        dataset=dataset,
        counts=manifest.metadata["counts"],
        job=_request(gate, spec.image, resources, request, bucket=bucket, environment=environment),
    )


def join(s3: Any, artifacts: list[ArtifactRef]) -> tuple[Manifest, list[tuple[int, str, FileEntry]]]:
    """The manifest of the whole, and where each of its shards comes from (`renumbered`). Reads manifests alone."""
    manifests = [read_manifest(s3, ref.uri, expected_sha256=ref.sha256) for ref in artifacts]
    placed = renumbered(manifests)
    return joined_manifest(manifests, [entry for _, _, entry in placed]), placed


def joined_dataset(s3: Any, artifacts: list[ArtifactRef], *, bucket: str) -> ArtifactRef:
    """Where the dataset of these parts lies once they are joined."""
    sha256 = join(s3, artifacts)[0].sha256
    return ArtifactRef(uri=f"s3://{bucket}/{Keys.upload('dataset', sha256)}", sha256=sha256)


def renumbered(manifests: list[Manifest]) -> list[tuple[int, str, FileEntry]]:
    """Part, path within it, and entry in the whole, of every shard: within a split in the order of the parts. Pure."""
    next_shard: Counter[str] = Counter()
    placed = []
    for part, manifest in enumerate(manifests):
        for entry in manifest.files:
            found = _SHARD.fullmatch(entry.path)
            if found is None or found[1] not in SPLITS:
                raise IntegrityError(f"part {part} has the file {entry.path!r}, which is no shard of a dataset")
            path = f"records/{found[1]}-{next_shard[found[1]]:05d}.jsonl"
            next_shard[found[1]] += 1
            placed.append((part, entry.path, entry.model_copy(update={"path": path})))
    return placed


def joined_manifest(manifests: list[Manifest], entries: list[FileEntry]) -> Manifest:
    """The manifest of the whole. Raises IntegrityError where parts are of different domains or verifiers. Pure."""
    first = manifests[0].metadata
    for part, manifest in enumerate(manifests):
        for field in ("domain", "verifier", "step_end"):
            if manifest.metadata.get(field) != first.get(field):
                raise IntegrityError(
                    f"part {part} has the {field} {manifest.metadata.get(field)!r}, and part 0 {first.get(field)!r}: "
                    "parts of one dataset come from the same code"
                )
    vocabularies = [manifest.metadata["vocabulary"] for manifest in manifests]
    words = sorted({word for vocabulary in vocabularies for word in vocabulary})
    # A domain's own vocabulary has an order, which its model relies on.
    same = all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    known = vocabularies[0] if same else words if all(vocabularies) and len(words) <= MOST_WORDS else []
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest.metadata["counts"])
    metadata: dict[str, Any] = {**first, "vocabulary": known, "counts": {split: counts[split] for split in SPLITS}}
    metadata.pop("parsing", None)
    if reports := [manifest.metadata["parsing"] for manifest in manifests if "parsing" in manifest.metadata]:
        metadata["parsing"] = _joined_reports(reports).model_dump(mode="json")
    files = tuple(sorted(entries, key=lambda entry: entry.path))
    return Manifest(kind="dataset", files=files, metadata=metadata)


def _joined_reports(plain: list[dict[str, Any]]) -> ParsingReport:
    reports = [ParsingReport.model_validate(report) for report in plain]
    dropped: Counter[Any] = Counter()
    for report in reports:
        dropped.update(report.dropped)
    return ParsingReport(
        solutions=sum(report.solutions for report in reports),
        steps=sum(report.steps for report in reports),
        records_without_steps=sum(report.records_without_steps for report in reports),
        dropped=dict(dropped),
        examples=reports[0].examples,
    )


def _sound(spec: AssemblySpec, parts: tuple[Part, ...]) -> list[ArtifactRef]:
    wanted = len(spec.sources) or spec.parts
    if len(parts) != wanted:
        raise IntegrityError(f"{len(parts)} parts came back for the {wanted} that were asked for")
    failed = [(number, part) for number, part in enumerate(parts) if part.artifact is None]
    if failed:
        number, part = failed[0]
        kind = getattr(errors, part.error or "", errors.JobFailed)
        raise kind(
            f"{len(failed)} of {len(parts)} parts failed, and the others are kept; {spec.label(number)}: "
            f"{part.cause or part.error}"
        )
    return [part.artifact for part in parts if part.artifact is not None]


def _request(
    job: JobSpec,
    image: str,
    resources: Resources,
    asked: PlanRequest | JoinRequest,
    *,
    bucket: str,
    environment: str,
) -> JobRequest:
    model = model_of(job) if job.type == "evaluate" else ""
    tags = job_tags(domain=job.domain, environment=environment, run=asked.run, model=model)
    return job_request(job, image=image, resources=resources, bucket=bucket, tags=tags)
