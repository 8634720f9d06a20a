"""Ways through the machines, so that every task is reached; and what must hold whatever happened on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ministack.services.stepfunctions as sfn

from stepforge.contracts.base import canonical_json
from stepforge.contracts.events import PackageStateChange
from stepforge.contracts.jobs import ArtifactRef, JobRequest, JobSpec
from stepforge.contracts.names import Keys, Machine, execution_name, package_group
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.registry import CHAMPION_GATE, PROMOTION, ExternalLineage, PackageMetadata
from stepforge.contracts.requests import ApprovalRequest, AssemblySpec, EvaluationSpec
from stepforge.contracts.resources import Resources, Vpc
from stepforge.contracts.serving import Fleet
from stepforge.contracts.work import WORK_TYPES, DatasetWork, SftWork, SrlWork
from stepforge.machines.deployment import serving_name
from stepforge.machines.planning import job_request
from tests.fakes import REGION_ARN, of_request

from .tunes import ENVIRONMENT, tune, tune_leftovers, tune_on_an_endpoint, tune_that_is_asked_for, tune_that_is_refused
from .world import BUCKET, IMAGE, Attempt, World, evaluation_files

Json = Any
GROUP = package_group("facial", ENVIRONMENT)
FLEET = Fleet(instance_type="ml.m5.large")
CODE = dict.fromkeys(WORK_TYPES, "c" * 64)
Prepared = tuple[str, Json]
"""Identity of the execution, and its input."""


@dataclass(frozen=True)
class Scenario:
    machine: Machine
    prepare: Callable[[World], Prepared]
    tasks: tuple[str, ...]
    """The tasks that it is there to reach."""
    error: str = ""
    """What it ends with by itself; empty where it succeeds."""


def fails(error: str) -> Callable[[Attempt], Json]:
    def fault(attempt: Attempt) -> Json:
        raise sfn._ExecutionError(error, json.dumps({"errorType": error, "errorMessage": "as told"}))

    return fault


def put_model(world: World, name: str) -> ArtifactRef:
    prefix = Keys.artifact(name)
    manifest = world.put_folder(prefix, "model", {"model.safetensors": name.encode(), "config.json": b"{}"})
    return ArtifactRef(uri=f"s3://{BUCKET}/{prefix}", sha256=manifest.sha256)


def put_package(world: World, name: str, approval: str, **more: Any) -> str:
    """A version with its model and an evaluation of its own."""
    model = put_model(world, f"sft-{name}")
    data = ArtifactRef(uri=f"s3://{BUCKET}/jobs/d/", sha256="d" * 64)
    spec = EvaluationSpec(domain="facial", model=model, data=data, code_sha256="c" * 64, image=IMAGE).job
    prefix = Keys.artifact(f"evaluate-{name}")
    evaluation = world.put_folder(prefix, "evaluation", evaluation_files(spec))
    metadata = PackageMetadata(
        pipeline_sha256="1" * 64, model_sha256=model.sha256, evaluation_sha256=evaluation.sha256,
        evaluation_uri=f"s3://{BUCKET}/{prefix}", dataset_sha256="d" * 64, domain="facial",
        training_job_arn=f"{REGION_ARN}:training-job/sft-{name}",
    )  # fmt: skip
    world.sagemaker.groups.add(world.group)
    world.sagemaker.add_job(f"sft-{name}", "0" * 64, OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/jobs"})
    source = {"S3DataSource": {"S3Uri": model.uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}
    made = world.sagemaker.create_model_package(
        ModelPackageGroupName=world.group,
        ModelApprovalStatus=approval,
        CustomerMetadataProperties={**metadata.properties(), CHAMPION_GATE: "first"},
        InferenceSpecification={"Containers": [{"Image": IMAGE, "ModelDataSource": source}]},
        **more,
    )
    return str(made["ModelPackageArn"])


# run-job


def run_job(world: World, **resources: Any) -> Prepared:
    spec = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)
    world.put(Keys.spec(spec.identity), canonical_json(spec))
    request = job_request(
        spec, image=IMAGE, resources=Resources(instance_type="ml.m5.large", **resources), bucket=BUCKET
    )
    return spec.identity, request.model_dump(mode="json")


def run_job_in_vpc(world: World) -> Prepared:
    return run_job(world, vpc=Vpc(subnets=("subnet-1",), security_groups=("sg-1",)))


def run_job_of_another(world: World) -> Prepared:
    identity, plain = run_job(world)
    name = f"{plain['prefix']}-a0"
    same = of_request(JobRequest.model_validate(plain))
    world.sagemaker.add_job(name, identity, "InProgress", HyperParameters={"spec_sha256": identity}, **same)
    spec = JobSpec.model_validate_json(world.read(plain["spec_uri"]))

    def ends() -> None:
        world.sagemaker.jobs[name] |= {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
        world.sagemaker.jobs[name] |= {"CreationTime": datetime(2026, 1, 1, tzinfo=UTC)}
        world.sagemaker.jobs[name] |= {"TrainingEndTime": datetime(2026, 1, 1, 0, 1, tzinfo=UTC)}
        world.write_artifact(name, spec)

    world.before["run-job", "Describe"] = ends
    return identity, plain


def run_job_that_fails(world: World) -> Prepared:
    world.job_ends = lambda spec: "AlgorithmError: line 17 is malformed"
    return run_job(world)


# train


def train(world: World) -> Prepared:
    put_package(world, "champion", "Approved", ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    spec = PipelineSpec(
        domain="facial",
        dataset=DatasetWork(domain="facial"),
        stages=(SftWork(), SrlWork(asking="plain")),
        code=CODE,
        image=IMAGE,
        group=GROUP,
    )
    uri = world.put(Keys.pipeline(spec.identity), canonical_json(spec))
    return spec.identity, {"pipeline_uri": uri, "pipeline_sha256": spec.identity}


def train_that_fails(world: World) -> Prepared:
    world.faults["train", "ReadGate"] = fails("GateRefused")
    return train(world)


def train_whose_champion_fails(world: World) -> Prepared:
    world.faults["train", "ChampionEvaluation"] = fails("CapacityError")
    return train(world)


# evaluate and dataset


def evaluate(world: World) -> Prepared:
    data = ArtifactRef(uri=f"s3://{BUCKET}/jobs/d/", sha256="d" * 64)
    model = put_model(world, "sft-0123456789ab-a0")
    spec = EvaluationSpec(domain="facial", model=model, data=data, code_sha256="c" * 64, image=IMAGE)
    uri = world.put(Keys.request("evaluate", spec.identity), canonical_json(spec))
    return spec.identity, {"spec_uri": uri, "spec_sha256": spec.identity}


def evaluate_that_fails(world: World) -> Prepared:
    world.faults["evaluate", "Evaluation"] = fails("CapacityError")
    return evaluate(world)


def dataset(world: World) -> Prepared:
    sources = tuple(ArtifactRef(uri=f"s3://{BUCKET}/raw/records/{c}/", sha256=c * 64) for c in "ab")
    spec = AssemblySpec(domain="facial", sources=sources, code=CODE, image=IMAGE)
    uri = world.put(Keys.request("dataset", spec.identity), canonical_json(spec))
    return spec.identity, {"spec_uri": uri, "spec_sha256": spec.identity}


def dataset_that_fails(world: World) -> Prepared:
    world.faults["dataset", "Part"] = fails("AlgorithmError")
    return dataset(world)


# approve


def asked(world: World, *, approved: bool, kind: Any = "promotion") -> Prepared:
    subject = put_package(world, "waits", "PendingManualApproval")
    world.answers = [{"approved": approved, "by": "ada", "reason": "as told"}] * 3
    request = ApprovalRequest(kind=kind, subject=subject, question="Shall it be promoted?")
    return request.identity, request.model_dump(mode="json")


def approve(world: World) -> Prepared:
    return asked(world, approved=True)


def reject(world: World) -> Prepared:
    return asked(world, approved=False)


def approve_that_fails(world: World) -> Prepared:
    world.faults["approve", "ApprovePackage"] = fails("SageMaker.ValidationException")
    return approve(world)


# promote


def promote(world: World) -> Prepared:
    """An approved version, and an older one that serves."""
    old = put_package(world, "old", "Approved", ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    new = put_package(world, "new", "Approved")
    serve(world, old)
    promotion = promotion_of(world, new)
    return promotion.event_id, promotion.model_dump(mode="json")


def serve(world: World, arn: str) -> None:
    """Put a version behind the live endpoint."""
    sagemaker, found = world.sagemaker, world.sagemaker.packages[arn]
    metadata = PackageMetadata.of(found["CustomerMetadataProperties"])
    assert metadata is not None
    name = serving_name(promotion_of(world, arn), metadata.model_sha256, IMAGE, FLEET)
    container = {"Image": IMAGE, "ModelDataSource": found["InferenceSpecification"]["Containers"][0]["ModelDataSource"]}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container)
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[{"ModelName": name}])
    sagemaker.endpoints.pop(world.group, None)
    sagemaker.create_endpoint(EndpointName=world.group, EndpointConfigName=name)


def promotion_of(world: World, arn: str) -> Any:
    from stepforge.contracts.registry import Promotion

    package = world.sagemaker.packages[arn]
    change = PackageStateChange(
        ModelPackageArn=arn, ModelApprovalStatus="Approved", LastModifiedTime=package["LastModifiedTime"]
    )
    version = package["ModelPackageVersion"]
    return Promotion(package_arn=arn, group=world.group, version=version, event_id=change.event_id)


def promote_that_fails_live(world: World) -> Prepared:
    world.faults["promote", "SmokeLive"] = fails("SmokeFailed")
    return promote(world)


def promote_that_is_cut_off(world: World) -> Prepared:
    world.faults["promote", "CheckCandidate"] = fails("CapacityError")
    return promote(world)


def promote_that_is_refused(world: World) -> Prepared:
    world.faults["promote", "Verify"] = fails("ArtifactRefused")
    return promote(world)


def promote_at_a_provider(world: World) -> Prepared:
    """A tune that was registered and approved, and an older version of ours that serves."""
    world.group = package_group("records", ENVIRONMENT)
    old = put_package(world, "old", "Approved", ModelLifeCycle={"Stage": "Production", "StageStatus": "Serving"})
    serve(world, old)
    identity, plain = tune(world)
    ended = world.start("finetune", execution_name("finetune", identity, 1), plain)
    assert ended["status"] == "SUCCEEDED", ended
    (new,) = set(world.sagemaker.packages) - {old}
    world.sagemaker.update_model_package(ModelPackageArn=new, ModelApprovalStatus="Approved")
    promotion = promotion_of(world, new)
    return promotion.event_id, promotion.model_dump(mode="json")


SCENARIOS = (
    Scenario("run-job", run_job, ("FindAttempt", "Create", "Classify")),
    Scenario("run-job", run_job_in_vpc, ("CreateInVpc",)),
    Scenario("run-job", run_job_of_another, ("Describe",)),
    Scenario("run-job", run_job_that_fails, ("ClassifyFailure", "Explain"), "AlgorithmError"),
    Scenario("train", train, (
        "PlanDataset", "Dataset", "PlanGate", "Gate", "ReadGate", "PlanStage", "Stage", "Evaluation", "PlanChampion",
        "ChampionEvaluation", "Compare", "Register")),
    Scenario("train", train_that_fails, ("Explain",), "GateRefused"),
    Scenario("train", train_whose_champion_fails, ("ExplainChampion",)),
    Scenario("evaluate", evaluate, ("PlanEvaluation", "Evaluation")),
    Scenario("evaluate", evaluate_that_fails, ("Explain",), "CapacityError"),
    Scenario("dataset", dataset, ("PlanParts", "Part", "Join", "Gate", "ReadGate")),
    Scenario("dataset", dataset_that_fails, ("ExplainPart", "Explain"), "AlgorithmError"),
    Scenario("approve", approve, ("Ask", "ApprovePackage")),
    Scenario("approve", reject, ("RejectPackage",), "ApprovalRefused"),
    Scenario("approve", approve_that_fails, ("Explain",), "SageMaker.ValidationException"),
    Scenario("promote", promote, (
        "Verify", "StampTrying", "DeployCandidate", "CheckCandidate", "SmokeCandidate", "LookLive", "DeployLive",
        "CheckLive", "SmokeLive", "Stamp", "RemoveCandidate")),
    Scenario("promote", promote_that_fails_live, ("RollBack", "RemoveFailedCandidate", "Explain", "StampFailed"),
             "SmokeFailed"),
    Scenario("finetune", tune, ("Decide", "Launch", "Look", "Retrieve", "Evaluate", "Register")),
    Scenario("finetune", tune_on_an_endpoint, ("Retrieve", "Release")),
    Scenario("finetune", tune_that_is_asked_for, ("AskPerson",)),
    Scenario("finetune", tune_that_is_refused, ("GiveUp", "Explain"), "NotApproved"),
    Scenario("promote", promote_at_a_provider, ("AskProvider", "StampExternal")),
    Scenario("promote", promote_that_is_refused, ("StampRefused",), "ArtifactRefused"),
    Scenario("promote", promote_that_is_cut_off, ("StampCutOff",), "CapacityError"),
)  # fmt: skip


# ── What must hold at the end ────────────────────────────────────────────────────────────────────


def leftovers(world: World, scenario: Scenario) -> list[str]:
    """What is left running, half-registered or deployed without a verdict."""
    sagemaker = world.sagemaker
    found = [f"the job {n} runs" for n, j in sagemaker.jobs.items() if j["TrainingJobStatus"] == "InProgress"]
    found += [f"{e['name']} runs" for e in sfn._executions.values() if e["status"] == "RUNNING"]
    identities = []
    for arn, package in sagemaker.packages.items():
        metadata = PackageMetadata.of(package.get("CustomerMetadataProperties", {}))
        if metadata is None:
            found.append(f"{arn} is registered without its lineage")
        else:
            identities.append((metadata.pipeline_sha256, metadata.model_sha256))
    if len(set(identities)) != len(identities):
        found.append("a model is registered twice")
    if f"{world.group}-candidate" in sagemaker.endpoints:
        found.append("the candidate endpoint runs")
    if scenario.machine == "promote":
        found += _serving(world)
    return [*found, *tune_leftovers(world, beside=scenario.machine == "promote")]


def _serving(world: World) -> list[str]:
    """The endpoint serves the version whose stage is Production, and there is one such version."""
    production = [
        p for p in world.sagemaker.packages.values() if p.get("ModelLifeCycle", {}).get("Stage") == "Production"
    ]
    if len(production) != 1:
        return [f"{len(production)} versions have the stage Production"]
    stages = {
        p["ModelPackageVersion"]: p.get("ModelLifeCycle", {}).get("Stage") for p in world.sagemaker.packages.values()
    }
    if "Staging" in stages.values():
        return [f"a version is in Staging, and nothing tries it: {stages}"]
    (package,) = production
    if ExternalLineage.of(package["CustomerMetadataProperties"]) is not None:
        # Its provider answers; what served before runs on for a roll-back, until the sweep retires it.
        return []
    serves = world.sagemaker.endpoints.get(world.group, {}).get("EndpointConfigName", "nothing")
    if f"-v{package['ModelPackageVersion']}-" not in serves:
        return [f"the endpoint serves {serves}, and version {package['ModelPackageVersion']} is in Production"]
    return []


def stamp_of(world: World) -> str:
    newest = max(world.sagemaker.packages.values(), key=lambda p: p["ModelPackageVersion"])
    return str(newest["CustomerMetadataProperties"].get(PROMOTION, "none"))


def name_of(scenario: Scenario, identity: str, number: int) -> str:
    return execution_name(scenario.machine, identity, number)


__all__ = ["SCENARIOS", "Scenario", "leftovers", "name_of", "serve", "stamp_of"]
