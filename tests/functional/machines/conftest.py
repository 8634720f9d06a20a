"""The environment `local` as it is committed, with an image whose jobs do next to nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from stepforge.connection import Connection
from stepforge.contracts.base import canonical_json
from stepforge.contracts.names import MACHINES, Keys, endpoint_name, execution_name, package_group, parameter
from stepforge.contracts.pipelines import PipelineSpec, PipelineState
from stepforge.contracts.registry import TrainOutput
from stepforge.contracts.serving import Fleet
from stepforge.contracts.work import WORK_TYPES, DatasetWork, SftWork, SrlWork
from stepforge.datasets import Datasets
from stepforge.evaluations import Evaluations
from stepforge.jobs import Jobs
from stepforge.local import Image, LocalAws, register_images
from stepforge.local.deploy import deploy
from stepforge.pipelines import Pipelines
from stepforge.registry import Registry

REPOSITORY = "000000000000.dkr.ecr.us-east-1.amazonaws.com/stepforge-fake"
IMAGE = f"{REPOSITORY}@sha256:{'0' * 64}"
CODE = dict.fromkeys(WORK_TYPES, "c" * 64)
GROUP = package_group("facial", "local")


@dataclass(frozen=True)
class Deployed:
    aws: LocalAws
    bucket: str
    machines: dict[str, str]

    def pipeline(self, *, seed: int = 0, rate: float = 0.1, stages: int = 2) -> PipelineSpec:
        return PipelineSpec(
            domain="facial",
            dataset=DatasetWork(domain="facial", seed=seed),
            stages=(SftWork(learning_rate=rate), SrlWork(learning_rate=rate, asking="plain"))[:stages],
            code=CODE,
            image=IMAGE,
            group=package_group("facial", "local"),
        )

    @property
    def session(self) -> boto3.Session:
        return boto3.Session(self.aws.access_key_id, self.aws.secret_access_key, region_name=self.aws.region)

    @property
    def connection(self) -> Connection:
        return Connection("local", self.session, endpoint_url=self.aws.endpoint_url)

    def train(self, spec: PipelineSpec, *, number: int = 1) -> dict[str, Any]:
        """Run `train` to its end and return DescribeExecution."""
        key = Keys.pipeline(spec.identity)
        self.aws.client("s3").put_object(Bucket=self.bucket, Key=key, Body=canonical_json(spec))
        state = PipelineState(pipeline_uri=f"s3://{self.bucket}/{key}", pipeline_sha256=spec.identity)
        plain = state.model_dump(mode="json", include={"pipeline_uri", "pipeline_sha256"})
        return self.run("train", execution_name("train", spec.identity, number), plain)

    def run(self, machine: str, name: str, plain: dict[str, Any]) -> dict[str, Any]:
        states = self.aws.client("stepfunctions")
        arn = states.start_execution(stateMachineArn=self.machines[machine], name=name, input=json.dumps(plain))
        return self.ended(arn["executionArn"])

    def ended(self, arn: str, *, seconds: float = 240) -> dict[str, Any]:
        states, deadline = self.aws.client("stepfunctions"), time.monotonic() + seconds
        while (described := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
            assert time.monotonic() < deadline, f"{arn} still runs after {seconds} s"
            time.sleep(0.05)
        return described

    def executions(self, machine: str) -> list[dict[str, Any]]:
        return self._all("stepfunctions", "list_executions", "executions", stateMachineArn=self.machines[machine])

    def jobs(self) -> set[str]:
        """The names of all training jobs, those of other tests too: compare two of these."""
        return {j["TrainingJobName"] for j in self._all("sagemaker", "list_training_jobs", "TrainingJobSummaries")}

    def endpoints(self) -> set[str]:
        return {e["EndpointName"] for e in self._all("sagemaker", "list_endpoints", "Endpoints")}

    def _all(self, service: str, call: str, member: str, **given: Any) -> list[dict[str, Any]]:
        """Of every page: whoever ran before may have filled the first."""
        pages = self.aws.client(service).get_paginator(call).paginate(**given)
        return [item for page in pages for item in page[member]]

    def package(self, arn: str) -> dict[str, Any]:
        return self.aws.client("sagemaker").describe_model_package(ModelPackageName=arn)

    def approve(self, arn: str) -> dict[str, Any]:
        """Approve a package, and return the end of its one promotion: the stamps that it leaves start no other."""
        before = {execution["executionArn"] for execution in self.executions("promote")}
        self.aws.client("sagemaker").update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
        deadline = time.monotonic() + 30
        while not (new := [e for e in self.executions("promote") if e["executionArn"] not in before]):
            assert time.monotonic() < deadline, "the approval started no promotion"
            time.sleep(0.05)
        ended = self.ended(new[0]["executionArn"])
        assert len(self.executions("promote")) == len(before) + 1
        return ended


def candidate_exists(deployed: Deployed) -> bool:
    return endpoint_name(GROUP, candidate=True) in deployed.endpoints()


@contextmanager
def serving(deployed: Deployed, fleet: Fleet, *, bake_seconds: int = 0) -> Iterator[None]:
    """An environment whose settings say another way to serve."""
    functions, ssm = deployed.aws.client("lambda"), deployed.aws.client("ssm")
    told = {
        "stepforge-local-verify-package": {"FLEET": fleet.model_dump_json()},
        "stepforge-local-on-approval": {"FLEET": fleet.model_dump_json()},
        "stepforge-local-deploy": {"BAKE_SECONDS": str(bake_seconds)},
    }
    before: dict[str, dict[str, Any]] = {}
    for name, variables in told.items():
        before[name] = functions.get_function_configuration(FunctionName=name)["Environment"]
        changed = {**before[name]["Variables"], **variables}
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": changed})
    name = parameter("local", "serve-mode")
    ssm.put_parameter(Name=name, Value=fleet.mode, Type="String", Overwrite=True)
    try:
        yield
    finally:
        for function, environment in before.items():
            functions.update_function_configuration(FunctionName=function, Environment=environment)
        ssm.put_parameter(Name=name, Value="realtime", Type="String", Overwrite=True)


@contextmanager
def deaf(deployed: Deployed) -> Iterator[None]:
    """No event of a package arrives."""
    events = deployed.aws.client("events")
    rules = [r["Name"] for r in events.list_rules()["Rules"] if "aws.sagemaker" in r.get("EventPattern", "")]
    assert rules
    for rule in rules:
        events.disable_rule(Name=rule)
    try:
        yield
    finally:
        for rule in rules:
            events.enable_rule(Name=rule)


@pytest.fixture(scope="session")
def trained(deployed: Deployed) -> TrainOutput:
    ended = deployed.train(deployed.pipeline())
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    return TrainOutput.model_validate_json(ended["output"])


@pytest.fixture(scope="session")
def client(deployed: Deployed) -> Any:
    """A client of the running server; `Client("local")` would deploy the real images over the fake one."""
    connection = deployed.connection
    return SimpleNamespace(
        connection=connection,
        jobs=Jobs(connection),
        pipelines=Pipelines(connection),
        registry=Registry(connection),
        evaluations=Evaluations(connection),
        datasets=Datasets(connection),
    )


@pytest.fixture(scope="session")
def deployed(local_aws: LocalAws) -> Deployed:
    return deploy_fake(local_aws)


def deploy_fake(local_aws: LocalAws) -> Deployed:
    script = str(Path(__file__).with_name("fake_image.py"))
    register_images({REPOSITORY: Image(argv_train=("python", script, "train"), argv_serve=("python", script, "serve"))})
    deploy(local_aws)
    ssm = local_aws.client("ssm")
    published = {"images/train": IMAGE, "images/serve": IMAGE, **{f"code/{work}": code for work, code in CODE.items()}}
    for key, published_value in published.items():
        ssm.put_parameter(Name=parameter("local", key), Value=published_value, Type="String", Overwrite=True)

    def value(key: str) -> str:
        return ssm.get_parameter(Name=parameter("local", key))["Parameter"]["Value"]

    machines = {name: value(f"machines/{name}") for name in MACHINES}
    return Deployed(local_aws, value("bucket"), machines)
