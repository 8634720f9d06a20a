"""The steps of a promotion: verify the artifact, bring up endpoints, smoke-test, stamp, clean up.

Each step may run twice with the same effect, since Step Functions retries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge import executions
from stepforge.artifacts import (
    check_digest,
    folder,
    list_paths,
    read_file,
    read_manifest,
    read_report,
    stream_sha256,
)
from stepforge.attempts import volume_key
from stepforge.contracts.base import Contract, Sha256, digest
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.manifests import MANIFEST, PICKLES
from stepforge.contracts.names import endpoint_name
from stepforge.contracts.registry import (
    PROMOTION,
    PROMOTION_EVENT,
    SERVES_SINCE,
    ExternalLineage,
    PackageMetadata,
    Promotion,
    PromotionResult,
)
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.resources import check_pinned
from stepforge.contracts.serving import InvokeRequest, InvokeResponse, Prompt
from stepforge.errors import ArtifactRefused, EndpointFailed, IntegrityError, InvalidInput, PromotionBusy, SmokeFailed
from stepforge.logs import trace_header
from stepforge.packages import EVALUATION, ROWS, summaries
from stepforge.rollout import VARIANT, Rollout, ensure_alarm, guardrails

GOLDEN = 8
"""Recorded greedy answers that a deployed model is asked for; all but one must come back."""
_DEFAULT_ROLLOUT = Rollout()
OWNER_TAG = "stepforge:execution"
"""Tag on the candidate endpoint: the ARN of the promotion that tries it. It is the lock between promotions."""
_APPROVAL_DESCRIPTION = 1024


class Deployment(Contract):
    """A verified package, and the names of what serves it."""

    promotion: Promotion
    model: str
    config: str
    """Name of both the Model and the EndpointConfig: they hold the same digest."""
    image: str
    artifact: ArtifactRef
    evaluation: ArtifactRef
    endpoint: str
    candidate: str
    previous_config: str | None = None
    """What the live endpoint served before; None where there was no endpoint."""
    poll_seconds: int
    external: bool = False
    """A provider has the weights and answers: nothing is deployed."""


class Golden(Contract):
    """What a model answered in its evaluation, greedily."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    max_new_tokens: int


class SmokeRequest(Contract):
    deployment: Deployment
    endpoint: str


class Stamp(Contract):
    promotion: Promotion
    result: PromotionResult
    reason: str


class SmokeResult(Contract):
    endpoint: str
    asked: int
    equal: int
    model_sha256: Sha256


def verify(
    sagemaker: Any, s3: Any, promotion: Promotion, *, instance_type: str, poll_seconds: int, instances: int = 1
) -> Deployment:
    """Check approval, image, manifest and every byte of the weights again, just before they serve.

    Raises ArtifactRefused with the file and the reason.
    """
    package = _approved(sagemaker, promotion)
    metadata = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
    if metadata is None:
        raise ArtifactRefused(f"{promotion.package_arn} was not registered by stepforge: its digests are unknown")
    if (lineage := ExternalLineage.of(package.get("CustomerMetadataProperties", {}))) is not None:
        return _external(s3, promotion, metadata, lineage, poll_seconds=poll_seconds)
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
        check_evaluation(s3, metadata)
    except (IntegrityError, InvalidInput) as error:
        raise ArtifactRefused(str(error)) from error
    name = serving_name(promotion, metadata.model_sha256, container["Image"], instance_type, instances)
    live = _endpoint(sagemaker, endpoint_name(promotion.group))
    return Deployment(
        promotion=promotion,
        model=name,
        config=name,
        image=container["Image"],
        artifact=ArtifactRef(uri=uri, sha256=metadata.model_sha256),
        evaluation=ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256),
        endpoint=endpoint_name(promotion.group),
        candidate=endpoint_name(promotion.group, candidate=True),
        previous_config=_previous(sagemaker, promotion, name, live, instance_type, instances),
        poll_seconds=poll_seconds,
    )


def _external(
    s3: Any, promotion: Promotion, metadata: PackageMetadata, lineage: ExternalLineage, *, poll_seconds: int
) -> Deployment:
    """There are no weights to check: the request that names the model and its evaluation are what was registered."""
    evaluation = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    request = ArtifactRef(uri=lineage.external_request_uri, sha256=metadata.pipeline_sha256)
    try:
        read_manifest(s3, evaluation.uri, expected_sha256=evaluation.sha256)
        if (found := stream_sha256(s3, request.uri)) != request.sha256:
            raise IntegrityError(f"{request.uri} has SHA-256 {found}, but the package says {request.sha256}")
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
        poll_seconds=poll_seconds,
        external=True,
    )


def _previous(
    sagemaker: Any,
    promotion: Promotion,
    config: str,
    live: dict[str, Any] | None,
    instance_type: str,
    instances: int,
) -> str | None:
    """What the live endpoint goes back to. A promotion that was cut off may have left it with this very version, not
    tried yet: then it is the configuration of the version whose stage is Production."""
    if live is None or live["EndpointConfigName"] != config:
        return None if live is None else str(live["EndpointConfigName"])
    for summary in summaries(sagemaker, promotion.group):
        package = sagemaker.describe_model_package(ModelPackageName=summary["ModelPackageArn"])
        metadata = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
        if package.get("ModelLifeCycle", {}).get("Stage") != "Production" or metadata is None:
            continue
        if ExternalLineage.of(package["CustomerMetadataProperties"]) is not None:
            continue
        served = promotion.model_copy(update={"version": package["ModelPackageVersion"]})
        image = package["InferenceSpecification"]["Containers"][0]["Image"]
        name = serving_name(served, metadata.model_sha256, image, instance_type, instances)
        return name if _exists(sagemaker.describe_endpoint_config, EndpointConfigName=name) else None
    return None


def check_evaluation(s3: Any, metadata: PackageMetadata) -> None:
    """There is an evaluation, of these very weights on the data that the package names, with answers to ask again.

    Raises ArtifactRefused where it is another's, InvalidInput or IntegrityError where it is missing or was altered.
    """
    ref = ArtifactRef(uri=metadata.evaluation_uri, sha256=metadata.evaluation_sha256)
    report = read_report(s3, ref, EVALUATION, EvaluationReport)
    for field, found, wanted in (
        ("model", report.model_sha256, metadata.model_sha256),
        ("dataset", report.manifest_sha256, metadata.dataset_sha256),
    ):
        if found != wanted:
            raise ArtifactRefused(
                f"{folder(ref.uri)}{EVALUATION} is of the {field} {found}, but the package names {wanted}: "
                "nobody knows how this model scores"
            )
    golden(s3, ref)


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


def serving_name(promotion: Promotion, model_sha256: str, image: str, instance_type: str, instances: int = 1) -> str:
    """`{group}-v{version}-{12 hex of what serves}`, at most 63 characters."""
    decides = [model_sha256, image, instance_type, *([instances] if instances > 1 else [])]
    tail = f"-v{promotion.version}-{digest(decides)[:12]}"
    return promotion.group[: 63 - len(tail)].rstrip("-") + tail


def prepare(
    sagemaker: Any,
    deployment: Deployment,
    *,
    role_arn: str,
    instance_type: str,
    key_arn: str,
    instances: int = 1,
) -> None:
    """Make the Model and the EndpointConfig where they do not exist."""
    source = {"S3Uri": folder(deployment.artifact.uri), "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": deployment.image, "ModelDataSource": {"S3DataSource": source}}
    key = volume_key(instance_type, key_arn)
    if not _exists(sagemaker.describe_model, ModelName=deployment.model):
        sagemaker.create_model(
            ModelName=deployment.model,
            PrimaryContainer=container,
            ExecutionRoleArn=role_arn,
            EnableNetworkIsolation=True,
        )
    if not _exists(sagemaker.describe_endpoint_config, EndpointConfigName=deployment.config):
        variant = {
            "VariantName": VARIANT,
            "ModelName": deployment.model,
            "InitialInstanceCount": instances,
            "InstanceType": instance_type,
            "InitialVariantWeight": 1.0,
        }
        sagemaker.create_endpoint_config(
            EndpointConfigName=deployment.config,
            ProductionVariants=[variant],
            **({} if key is None else {"KmsKeyId": key}),
        )


def deploy_candidate(sagemaker: Any, states: Any, deployment: Deployment, *, execution_arn: str) -> None:
    """Bring up `{group}-candidate` for this execution, which its tag names.

    Raises PromotionBusy while another promotion has it, of this very version too, or a stale one is going.
    """
    found = _endpoint(sagemaker, deployment.candidate)
    if found is None:
        tags = [{"Key": OWNER_TAG, "Value": execution_arn}]
        try:
            sagemaker.create_endpoint(
                EndpointName=deployment.candidate, EndpointConfigName=deployment.config, Tags=tags
            )
        except AwsError as error:
            if _endpoint(sagemaker, deployment.candidate) is None:
                raise
            raise PromotionBusy(f"another promotion made {deployment.candidate} first: wait for it to go") from error
        return
    owner = _owner(sagemaker, found)
    if owner == execution_arn and found["EndpointStatus"] in ("InService", "Creating"):
        return
    if found["EndpointStatus"] != "Deleting" and (owner == execution_arn or not _runs(states, owner)):
        # An execution that was stopped cannot clean up: what it left behind is nobody's.
        sagemaker.delete_endpoint(EndpointName=deployment.candidate)
    raise PromotionBusy(
        f"{deployment.candidate} is {found['EndpointStatus']} for {owner.rpartition(':')[2] or 'nobody'}: "
        "wait for it to go"
    )


def deploy_live(sagemaker: Any, cloudwatch: Any, deployment: Deployment, rollout: Rollout = _DEFAULT_ROLLOUT) -> None:
    """Create the live endpoint, or update it blue/green. Where it serves this already, nothing happens.

    Raises ArtifactRefused where the approval was taken back meanwhile.
    """
    _approved(sagemaker, deployment.promotion)
    _point(sagemaker, cloudwatch, deployment.endpoint, deployment.config, rollout)


def roll_back(sagemaker: Any, deployment: Deployment) -> None:
    """Point the live endpoint at what it served before; delete it where it served nothing."""
    found = _endpoint(sagemaker, deployment.endpoint)
    if found is None:
        return
    if deployment.previous_config is None:
        sagemaker.delete_endpoint(EndpointName=deployment.endpoint)
    elif found["EndpointStatus"] in ("Updating", "SystemUpdating", "RollingBack"):
        raise PromotionBusy(f"{deployment.endpoint} is {found['EndpointStatus']}: it can be rolled back once that ends")
    elif found["EndpointConfigName"] != deployment.previous_config:
        sagemaker.update_endpoint(EndpointName=deployment.endpoint, EndpointConfigName=deployment.previous_config)


def remove_candidate(sagemaker: Any, deployment: Deployment, *, execution_arn: str, failed: bool) -> None:
    """Delete this execution's candidate endpoint, and after a failure the config and model that nothing serves now."""
    found = _endpoint(sagemaker, deployment.candidate)
    if found is not None and _owner(sagemaker, found) == execution_arn:
        if found["EndpointStatus"] != "Deleting":
            sagemaker.delete_endpoint(EndpointName=deployment.candidate)
        found = None
    live = _endpoint(sagemaker, deployment.endpoint)
    served = [endpoint["EndpointConfigName"] for endpoint in (live, found) if endpoint is not None]
    if failed and deployment.config not in served:
        if _exists(sagemaker.describe_endpoint_config, EndpointConfigName=deployment.config):
            sagemaker.delete_endpoint_config(EndpointConfigName=deployment.config)
        if _exists(sagemaker.describe_model, ModelName=deployment.model):
            sagemaker.delete_model(ModelName=deployment.model)


def remove_abandoned(sagemaker: Any, states: Any, group: str) -> bool:
    """Delete a group's candidate endpoint whose promotion runs no longer. Whether there was one."""
    found = _endpoint(sagemaker, endpoint_name(group, candidate=True))
    if found is None or found["EndpointStatus"] == "Deleting" or _runs(states, _owner(sagemaker, found)):
        return False
    sagemaker.delete_endpoint(EndpointName=found["EndpointName"])
    return True


def endpoint_state(sagemaker: Any, endpoint: str, config: str) -> Literal["ready", "wait"]:
    """Whether `endpoint` serves `config`. Raises EndpointFailed where it failed or rolled itself back."""
    found = _endpoint(sagemaker, endpoint)
    if found is None:
        raise EndpointFailed(f"{endpoint} does not exist: it was deleted while it was being deployed")
    status = found["EndpointStatus"]
    if status == "InService" and found["EndpointConfigName"] == config:
        return "ready"
    if status in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
        return "wait"
    reason = found.get("FailureReason", f"it serves {found['EndpointConfigName']}")
    raise EndpointFailed(f"{endpoint} is {status} instead of serving {config}: {reason}")


def golden(s3: Any, evaluation: ArtifactRef, count: int = GOLDEN) -> Golden:
    """`count` recorded greedy answers, spread evenly over the evaluation. Raises InvalidInput where there is none."""
    rows = [json.loads(line) for line in read_file(s3, evaluation, ROWS).splitlines()]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    if not greedy:
        raise InvalidInput(f"{folder(evaluation.uri)}{ROWS} has no greedy row: there is nothing to smoke-test with")
    chosen = greedy[:: max(1, len(greedy) // count)][:count]
    return Golden(
        prompts=tuple(row["prompt"] for row in chosen),
        completions=tuple(row["completion"] for row in chosen),
        # What the evaluation cut off has this length, and what ended before it ends before it again.
        max_new_tokens=max(1, *(row["tokens"] for row in greedy)),
    )


def smoke(runtime: Any, s3: Any, deployment: Deployment, endpoint: str) -> SmokeResult:
    """Ask the endpoint what the evaluation asked. Raises SmokeFailed where the weights or the answers are others."""
    expected = golden(s3, deployment.evaluation)
    request = InvokeRequest(
        records=tuple(Prompt(prompt=prompt) for prompt in expected.prompts), max_new_tokens=expected.max_new_tokens
    )
    try:
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Accept="application/json",
            CustomAttributes=trace_header(),
            Body=request.model_dump_json(),
        )
    except runtime.exceptions.ModelError as error:
        raise SmokeFailed(f"{endpoint} failed to answer: {error}") from error
    try:
        response = InvokeResponse.model_validate_json(answer["Body"].read())
    except ValueError as error:
        raise SmokeFailed(f"{endpoint} answered something else than an InvokeResponse: {error}") from error
    return judge(endpoint, expected, response, expected_sha256=deployment.artifact.sha256)


def judge(endpoint: str, expected: Golden, response: InvokeResponse, *, expected_sha256: str) -> SmokeResult:
    """All but one recorded answer must come back from the expected weights. Pure.

    One may differ: a batch rounds otherwise than another batch does, which can flip a tie in greedy decoding.
    """
    asked = len(expected.prompts)
    if response.model_sha256 != expected_sha256:
        raise SmokeFailed(f"{endpoint} serves the weights {response.model_sha256}, not {expected_sha256}")
    if len(response.completions) != asked:
        raise SmokeFailed(f"{endpoint} gave {len(response.completions)} answers to {asked} prompts")
    triples = zip(expected.prompts, expected.completions, response.completions, strict=True)
    wrong = [(prompt, want, got) for prompt, want, got in triples if want != got]
    if len(wrong) > (1 if asked > 1 else 0):
        prompt, want, got = wrong[0]
        raise SmokeFailed(
            f"{endpoint} answered {len(wrong)} of {asked} golden prompts otherwise; {prompt!r}: {got!r}, not {want!r}"
        )
    return SmokeResult(endpoint=endpoint, asked=asked, equal=asked - len(wrong), model_sha256=response.model_sha256)


def stamp(sagemaker: Any, promotion: Promotion, result: PromotionResult, reason: str) -> None:
    """Write how the promotion ended on the package; where it was deployed, the champion before it is archived."""
    package = sagemaker.describe_model_package(ModelPackageName=promotion.package_arn)
    properties = {
        **package.get("CustomerMetadataProperties", {}),
        PROMOTION: result,
        PROMOTION_EVENT: promotion.event_id,
    }
    change: dict[str, Any] = {"CustomerMetadataProperties": properties}
    if result == "deployed":
        properties[SERVES_SINCE] = datetime.now(UTC).isoformat(timespec="seconds")
        change["ModelLifeCycle"] = {"Stage": "Production", "StageStatus": "Serving", "StageDescription": reason[:1024]}
    else:
        change["ApprovalDescription"] = f"promotion {result}: {reason}"[:_APPROVAL_DESCRIPTION].replace("\n", " ")
    sagemaker.update_model_package(ModelPackageArn=promotion.package_arn, **change)
    if result != "deployed":
        return
    for other in summaries(sagemaker, promotion.group):
        arn = other["ModelPackageArn"]
        if arn != promotion.package_arn and other.get("ModelLifeCycle", {}).get("Stage") == "Production":
            archived = {
                "Stage": "Archived",
                "StageStatus": "Superseded",
                "StageDescription": f"by version {promotion.version}",
            }
            sagemaker.update_model_package(ModelPackageArn=arn, ModelLifeCycle=archived)


def _approved(sagemaker: Any, promotion: Promotion) -> dict[str, Any]:
    """The package as it is now. Raises ArtifactRefused where it is not approved."""
    package: dict[str, Any] = sagemaker.describe_model_package(ModelPackageName=promotion.package_arn)
    if package["ModelApprovalStatus"] != "Approved":
        raise ArtifactRefused(f"{promotion.package_arn} is {package['ModelApprovalStatus']} by now, not Approved")
    return package


def _owner(sagemaker: Any, candidate: dict[str, Any]) -> str:
    """ARN of the execution that a candidate endpoint belongs to; empty where it has no such tag."""
    try:
        tags = sagemaker.list_tags(ResourceArn=candidate["EndpointArn"])["Tags"]
    except AwsError as error:
        if _is_absent(error):
            return ""
        raise
    return next((tag["Value"] for tag in tags if tag["Key"] == OWNER_TAG), "")


def _runs(states: Any, execution_arn: str) -> bool:
    found = executions.describe(states, execution_arn) if execution_arn else None
    return found is not None and found.status == "RUNNING"


def _point(sagemaker: Any, cloudwatch: Any, endpoint: str, config: str, rollout: Rollout) -> None:
    found = _endpoint(sagemaker, endpoint)
    if found is None:
        ensure_alarm(cloudwatch, endpoint)
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    elif found["EndpointStatus"] == "Failed":
        # A failed endpoint can be neither updated nor created again.
        sagemaker.delete_endpoint(EndpointName=endpoint)
        raise PromotionBusy(f"{endpoint} had failed and is being deleted: wait for it to go")
    elif found["EndpointStatus"] in ("Updating", "SystemUpdating", "RollingBack", "Creating", "Deleting"):
        raise PromotionBusy(f"{endpoint} is {found['EndpointStatus']}: wait for that to end")
    elif found["EndpointConfigName"] != config:
        sagemaker.update_endpoint(
            EndpointName=endpoint,
            EndpointConfigName=config,
            DeploymentConfig=guardrails(ensure_alarm(cloudwatch, endpoint), rollout),
        )


def _endpoint(sagemaker: Any, name: str) -> dict[str, Any] | None:
    return _exists(sagemaker.describe_endpoint, EndpointName=name)


def _exists(describe: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    try:
        return describe(**name)
    except AwsError as error:
        if _is_absent(error):
            return None
        raise


def _is_absent(error: AwsError) -> bool:
    """SageMaker has no error code of its own for what does not exist."""
    text = str(error).lower()
    return any(words in text for words in ("could not find", "not found", "does not exist"))
