"""What is approved may serve: its image, every byte of its weights, and an evaluation of these very weights."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any

from stepforge.artifacts import check_digest, folder, list_paths, read_bytes, read_manifest, read_report, stream_sha256
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import MANIFEST, PICKLES
from stepforge.contracts.names import endpoint_name
from stepforge.contracts.records import TEST_SPLITS
from stepforge.contracts.registry import ExternalLineage, GateVerdict, PackageMetadata, Promotion
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.resources import check_pinned
from stepforge.contracts.serving import Fleet
from stepforge.errors import ArtifactRefused, EndpointFailed, IntegrityError, InvalidInput
from stepforge.machines.champion import METRIC
from stepforge.machines.deployment._contracts import Deployment
from stepforge.machines.deployment._lineage import check_job, check_tune, check_verdict
from stepforge.machines.deployment._lookups import approved
from stepforge.machines.deployment._smoke import golden
from stepforge.machines.deployment._versions import mode_of, previous_config, serving_name
from stepforge.machines.packages import EVALUATION


def verify(sagemaker: Any, s3: Any, promotion: Promotion, fleet: Fleet, *, poll_seconds: int) -> Deployment:
    """Check approval, image, manifest and every byte of the weights again, just before they serve.

    Raises ArtifactRefused with the file and the reason, EndpointFailed where what is live serves in another mode.
    """
    package = approved(sagemaker, promotion)
    metadata = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
    if metadata is None:
        raise ArtifactRefused(f"{promotion.package_arn} was not registered by stepforge: its digests are unknown")
    verdict = check_verdict(package["CustomerMetadataProperties"])
    if (lineage := ExternalLineage.of(package["CustomerMetadataProperties"])) is not None:
        return _external(s3, promotion, metadata, lineage, fleet, verdict=verdict, poll_seconds=poll_seconds)
    container = package["InferenceSpecification"]["Containers"][0]
    try:
        check_pinned(container["Image"])
    except ValueError as error:
        raise ArtifactRefused(
            f"the image {container['Image']!r} is not pinned by its digest: register it as name@sha256:..."
        ) from error
    uri = container["ModelDataSource"]["S3DataSource"]["S3Uri"]
    try:
        check_weights(s3, uri, metadata.model_sha256)
        check_job(sagemaker, s3, metadata, uri)
        check_evaluation(s3, metadata)
    except (IntegrityError, InvalidInput) as error:
        raise ArtifactRefused(str(error)) from error
    check_mode(sagemaker, promotion.group, fleet)
    name = serving_name(promotion, metadata.model_sha256, container["Image"], fleet)
    return Deployment(
        promotion=promotion,
        model=name,
        config=name,
        image=container["Image"],
        artifact=ArtifactRef(uri=uri, sha256=metadata.model_sha256),
        evaluation=ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256),
        endpoint=endpoint_name(promotion.group),
        candidate=endpoint_name(promotion.group, candidate=True),
        # Read again before the live endpoint is changed; this one counts in executions of an older machine alone.
        previous_config=previous_config(sagemaker, promotion, name, fleet),
        fleet=fleet,
        poll_seconds=poll_seconds,
        champion_gate=verdict,
    )


def _external(
    s3: Any,
    promotion: Promotion,
    metadata: PackageMetadata,
    lineage: ExternalLineage,
    fleet: Fleet,
    *,
    verdict: GateVerdict | None,
    poll_seconds: int,
) -> Deployment:
    """There are no weights to check: the request that names the model and its evaluation are what was registered, and
    the evaluation is of this model, on the records that the request held out."""
    evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    request = ArtifactRef(uri=lineage.external_request_uri, sha256=metadata.pipeline_sha256)
    try:
        data = read_bytes(s3, request.uri)
        if (found := hashlib.sha256(data).hexdigest()) != request.sha256:
            raise IntegrityError(f"{request.uri} has SHA-256 {found}, but the package says {request.sha256}")
        _check_report(s3, metadata, dataset_sha256=check_tune(data, metadata, lineage))
    except (IntegrityError, InvalidInput) as error:
        raise ArtifactRefused(str(error)) from error
    name = f"external-{metadata.model_sha256[:12]}"
    return Deployment(
        promotion=promotion,
        model=name,
        config=name,
        image="",
        artifact=request,
        evaluation=evaluation,
        endpoint=endpoint_name(promotion.group),
        candidate=endpoint_name(promotion.group, candidate=True),
        fleet=fleet,
        poll_seconds=poll_seconds,
        external=True,
        champion_gate=verdict,
    )


def check_evaluation(s3: Any, metadata: PackageMetadata) -> None:
    """There is an evaluation, of these very weights on the data that the package names, with answers to ask again.

    Raises ArtifactRefused where it is another's or scores nothing, InvalidInput or IntegrityError where it is missing
    or was altered.
    """
    golden(s3, _check_report(s3, metadata, dataset_sha256=metadata.dataset_sha256))


def _check_report(s3: Any, metadata: PackageMetadata, *, dataset_sha256: str) -> ArtifactRef:
    ref = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    report = read_report(s3, ref, EVALUATION, EvaluationReport)
    for field, found, wanted in (
        ("model", report.model_sha256, metadata.model_sha256),
        ("dataset", report.manifest_sha256, dataset_sha256),
    ):
        if found != wanted:
            raise ArtifactRefused(
                f"{folder(ref.uri)}{EVALUATION} is of the {field} {found}, but the package names {wanted}: "
                "nobody knows how this model scores"
            )
    if not any(score.metric == METRIC and score.split in TEST_SPLITS for score in report.scores):
        raise ArtifactRefused(
            f"{folder(ref.uri)}{EVALUATION} has no score of {METRIC!r} on any of {', '.join(TEST_SPLITS)}: nobody "
            "knows how this model scores"
        )
    return ref


def check_weights(s3: Any, uri: str, expected_sha256: str) -> None:
    """Every object below `uri` is in the manifest with its SHA-256, and none is a pickle.

    Raises ArtifactRefused naming a pickle, an object that the manifest does not know, or a missing weights file;
    IntegrityError naming the file whose bytes differ.
    """
    present = set(list_paths(s3, uri))
    for path in sorted(present):
        if PurePosixPath(path).suffix.lower() in PICKLES:
            raise ArtifactRefused(
                f"{folder(uri)}{path} can hold a pickle, which runs code when it is read: only safetensors is served"
            )
    manifest = read_manifest(s3, uri, expected_sha256=expected_sha256)
    named = {entry.path for entry in manifest.files}
    if strangers := sorted(present - named - {MANIFEST}):
        raise ArtifactRefused(f"{folder(uri)}{strangers[0]} is not in the manifest: it was added after the job ended")
    if missing := sorted(named - present):
        raise ArtifactRefused(f"{folder(uri)}{missing[0]} is missing; the manifest names it")
    if not any(path.endswith(".safetensors") for path in named):
        raise ArtifactRefused(f"{uri} has no .safetensors file: there are no weights to serve")
    for entry in manifest.files:
        check_digest(folder(uri) + entry.path, entry, stream_sha256(s3, folder(uri) + entry.path))


def check_mode(sagemaker: Any, group: str, fleet: Fleet) -> None:
    """Raises EndpointFailed where the live endpoint serves in another mode: no update turns one into the other."""
    mode = mode_of(sagemaker, group)
    if mode not in (None, fleet.mode):
        raise EndpointFailed(
            f"{endpoint_name(group)} serves in the mode {mode!r}, and the environment's is {fleet.mode!r}: delete the "
            "endpoint (and its inference components) and approve again, or set serve_mode back"
        )
