"""A run in a cloud of dictionaries: S3, SageMaker and Step Functions that answer as AWS does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

from botocore.exceptions import ClientError
from tests.fakes import of_request
from tests.unit.report.sample import ACCOUNT, sha

from stepforge.connection import Connection
from stepforge.contracts.base import canonical_json
from stepforge.contracts.manifests import FileEntry, Manifest
from stepforge.contracts.names import SPEC_TAG, job_name, split_uri
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.contracts.work import WORK_TYPES
from stepforge.machines.executions import Execution, describe
from stepforge.machines.planning import pipeline_job_request
from stepforge.pipelines import Pipelines, PlannedJob, Run
from stepforge.recipes import load_recipe
from stepforge.testing import FakeStepFunctions

BUCKET = "stepforge-dev"


class FakeS3:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.exceptions = SimpleNamespace(NoSuchKey=KeyError)

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": BytesIO(self.objects[f"{Bucket}/{Key}"])}

    def put_artifact(self, uri: str, kind: Any, files: dict[str, bytes], metadata: dict[str, Any] | None = None) -> str:
        """Write files with their manifest; returns the artifact's digest."""
        bucket, key = split_uri(uri)
        entries = tuple(
            FileEntry(path=path, sha256=_sha(data), bytes=len(data)) for path, data in sorted(files.items())
        )
        manifest = Manifest(kind=kind, files=entries, metadata=metadata or {})
        for path, data in {**files, "manifest.json": canonical_json(manifest)}.items():
            self.objects[f"{bucket}/{key}{path}"] = data
        return manifest.sha256


class FakeSageMaker:
    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(ClientError=ClientError)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.packages: dict[str, dict[str, Any]] = {}

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:
        if TrainingJobName not in self.jobs:
            raise _error("Requested resource not found.")
        return self.jobs[TrainingJobName]

    def describe_model_package(self, *, ModelPackageName: str) -> dict[str, Any]:
        if ModelPackageName not in self.packages:
            raise _error(f"ModelPackage {ModelPackageName} does not exist.")
        return self.packages[ModelPackageName]

    def list_tags(self, *, ResourceArn: str) -> dict[str, Any]:
        return {"Tags": [{"Key": SPEC_TAG, "Value": self.tags[ResourceArn]}]}


def _error(message: str) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "Describe")


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


class Cloud:
    """Jobs are ended one by one, as an execution would."""

    def __init__(self, spec: PipelineSpec | None = None) -> None:
        self.s3, self.sagemaker, self.states = FakeS3(), FakeSageMaker(), FakeStepFunctions()
        self.spec = spec or pipeline()
        clients = {"s3": self.s3, "sagemaker": self.sagemaker, "stepfunctions": self.states}
        environment = SimpleNamespace(bucket=BUCKET, machines={"train": f"{ACCOUNT}:stateMachine:train"})
        connection = SimpleNamespace(name="dev", environment=environment, client=lambda service: clients[service])
        self.connection = cast(Connection, connection)
        started = self.states.start_execution(
            stateMachineArn=environment.machines["train"], name=f"train-{self.spec.identity[:12]}-r0", input="{}"
        )
        self.arn: str = started["executionArn"]
        found = describe(self.states, self.arn)
        self.run = Run(self.connection, cast(Execution, found), self.spec)

    def next(self) -> PlannedJob:
        return Pipelines(self.connection).plan(self.spec)[-1]

    def end(self, status: str = "Completed", *, files: dict[str, bytes] | None = None, **metadata: Any) -> PlannedJob:
        """Let the next job run and end. Returns it as it was planned."""
        planned = self.next()
        spec = planned.spec
        name = job_name(spec.prefix, len(planned.attempts))
        arn = f"{ACCOUNT}:training-job/{name}"
        uri = f"s3://{BUCKET}/jobs/{name}/output/model/"
        kind = {"dataset": "dataset", "gate": "gate", "evaluate": "evaluation"}.get(spec.type, "model")
        if status == "Completed":
            self.s3.put_artifact(uri, kind, files or {}, metadata)
        self.sagemaker.tags[arn] = spec.identity
        self.sagemaker.jobs[name] = {
            **of_request(pipeline_job_request(spec, self.spec, bucket=BUCKET)),
            "TrainingJobName": name,
            "TrainingJobArn": arn,
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "ModelArtifacts": {"S3ModelArtifacts": uri.rstrip("/")},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2},
            "BillableTimeInSeconds": 100,
            "FailureReason": "" if status == "Completed" else "AlgorithmError: it broke",
            "CreationTime": datetime(2026, 3, 2, tzinfo=UTC),
        }
        return planned


def pipeline(**changes: Any) -> PipelineSpec:
    recipe = load_recipe("facial")
    plain = {
        "domain": "facial",
        "dataset": recipe.dataset,
        "gate": recipe.gate,
        "model": recipe.model,
        "stages": recipe.stages,
        "evaluation": recipe.evaluation,
        "code": {work: sha(f"code {work}") for work in WORK_TYPES},
        "image": "image@sha256:" + "0" * 64,
        "group": "stepforge-facial",
    }
    return PipelineSpec.model_validate(plain | changes)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
