"""The machines as the local AWS interprets them, in this process: real handlers over small fakes, and no waiting.

The interpreter is the local AWS's own with its mends; what it calls is intercepted at one place, the attempt of a task,
where a fault is put in. Jobs end at once with the artifacts that their contracts ask for.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import ModuleType
from typing import Any

import ministack.services.stepfunctions as sfn
import pytest

from stepforge.artifacts import folder as folder_of
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import MANIFEST, FileEntry, Manifest
from stepforge.contracts.names import MACHINES, Keys, group_prefix, package_group, split_uri
from stepforge.contracts.records import SPLITS, TEST_SPLITS
from stepforge.contracts.reports import EvaluationReport, GateReport, Interval, Score
from stepforge.finetune.ledger_dynamodb import TableLedger
from stepforge.finetune.request import Tools
from stepforge.installation.assets import folder
from stepforge.local.backend import executions as local_executions
from stepforge.local.backend import paths, tasks, waiting
from tests.fakes import FakeAlarms, FakeSageMaker, described

from .objects import Objects
from .tunes import ENVIRONMENT, TABLE, Table, Vendor, ledger_of

Json = Any
BUCKET, KEY_ARN = "stepforge-chaos", "arn:aws:kms:us-east-1:000000000000:key/0"
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/stepforge-train@sha256:" + "0" * 64
STEM = "arn:aws:states:us-east-1:000000000000"
SETTINGS = {
    "BUCKET": BUCKET, "KEY_ARN": KEY_ARN, "ENVIRONMENT": ENVIRONMENT, "POLL_SECONDS": "1", "ENDPOINT_POLL_SECONDS": "1",
    "SERVE_INSTANCE_TYPE": "ml.m5.large", "SERVING_ROLE_ARN": "arn:serving", "TOPIC_ARN": "arn:topic",
    "FLEET": '{"instance_type": "ml.m5.large"}',
    "PROMOTE_ARN": f"{STEM}:stateMachine:promote", "GROUP_PREFIX": group_prefix(ENVIRONMENT), "SPEND_TABLE": TABLE,
    "FINETUNE_FIRST_SECONDS": "1", "FINETUNE_MOST_SECONDS": "1",
    "FINETUNE_LIMITS": '{"job_usd": 50, "day_usd": 50, "environment_usd": 50, "approval_usd": 50}',
}  # fmt: skip

Fault = Callable[["Attempt"], Json]
"""Stands in for one attempt of a task: raise, answer, or go on with `attempt.proceed()`."""


@dataclass
class Attempt:
    """One attempt of one task."""

    machine: str
    state: str
    number: int
    """From 0, over all executions of the world."""
    resource: str
    parameters: Json
    execution: Json
    proceed: Callable[[], Json]


@dataclass
class World:
    s3: Objects
    sagemaker: FakeSageMaker = field(default_factory=FakeSageMaker)
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    before: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    """What happens in the world just before an attempt."""
    seen: dict[tuple[str, str], int] = field(default_factory=dict)
    handlers: dict[str, Any] = field(default_factory=dict)
    job_ends: Callable[[JobSpec], str] | None = None
    """The FailureReason with which a job ends; None or empty where it completes."""
    states: Any = None
    answers: list[Json] = field(default_factory=list)
    """What people say to questions, in their order; what can be called happens then."""
    vendor: Vendor = field(default_factory=Vendor)
    table: Table = field(default_factory=Table)
    key: str = ""
    """Of the one paid tune."""
    group: str = package_group("facial", ENVIRONMENT)
    """Of the models that are promoted."""
    settled: set[str] = field(default_factory=set)
    """Executions whose end was heard and dealt with."""

    bucket = BUCKET

    @property
    def ledger(self) -> TableLedger:
        return ledger_of(self.table)

    # What the interpreter calls

    def run(self, state_def: Json, resource: str, effective: Json, _: Json, execution: Json, ctx: Json) -> Json:
        machine = execution["stateMachineArn"].split(":")[6].partition("/")[0]
        key = (machine, ctx["State"]["Name"])
        number = self.seen[key] = self.seen.get(key, -1) + 1
        waiting.enter(waiting.TaskRun(tasks._root(execution)))
        waiting.check()

        def proceed() -> Json:
            return self.invoke(resource, effective, ctx)

        if (happens := self.before.get(key)) is not None:
            happens()
        fault = self.faults.get(key)
        if fault is None:
            return proceed()
        return fault(Attempt(*key, number, resource, effective, tasks._root(execution), proceed))

    def invoke(self, resource: str, parameters: Json, ctx: Json) -> Json:
        if resource.startswith("arn:aws:lambda:"):
            return self.handle(resource.rpartition(":")[2], parameters)
        if resource.endswith("lambda:invoke.waitForTaskToken"):
            self.handle(parameters["FunctionName"].rpartition(":")[2], parameters["Payload"])
            if not self.answers:
                raise sfn._ExecutionError("States.Timeout", "Task timed out")
            said = self.answers.pop(0)
            return said() if callable(said) else said
        if "states:startExecution" in resource:
            return local_executions.nested_start_execution_sync(resource, parameters)
        if resource.endswith("createTrainingJob.sync"):
            return self.create_job(parameters)
        if resource.endswith("describeTrainingJob"):
            return json.loads(json.dumps(self.sagemaker.describe_training_job(**parameters), default=str))
        if resource.endswith("updateModelPackage"):
            self.sagemaker.update_model_package(**parameters)
            return {}
        raise AssertionError(f"nobody answers {resource}")

    def handle(self, name: str, event: Json) -> Json:
        try:
            return json.loads(json.dumps(self.handlers[name].handler(json.loads(json.dumps(event)), None)))
        except Exception as error:
            payload = {"errorType": type(error).__name__, "errorMessage": str(error)}
            raise sfn._ExecutionError(type(error).__name__, json.dumps(payload)) from error

    def create_job(self, request: Json) -> Json:
        name = request["TrainingJobName"]
        if name in self.sagemaker.jobs:
            raise sfn._ExecutionError("SageMaker.ResourceInUseException", f"{name} exists already")
        spec = JobSpec.model_validate_json(self.read(request["HyperParameters"]["spec_uri"]))
        reason = self.job_ends(spec) if self.job_ends is not None else ""
        self.sagemaker.add_job(
            name,
            request["HyperParameters"]["spec_sha256"],
            "Failed" if reason else "Completed",
            **described(request),
            HyperParameters=request["HyperParameters"],
            ResourceConfig=request["ResourceConfig"],
            StoppingCondition=request["StoppingCondition"],
            CreationTime=datetime(2026, 1, 1, tzinfo=UTC),
            TrainingEndTime=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
            ModelArtifacts={"S3ModelArtifacts": f"s3://{BUCKET}/{Keys.artifact(name)}"},
            **({"FailureReason": reason} if reason else {}),
        )
        view = json.dumps(self.sagemaker.jobs[name], default=str)
        if reason:
            raise sfn._ExecutionError("States.TaskFailed", view)
        self.write_artifact(name, spec)
        return json.loads(view)

    # Artifacts

    def read(self, uri: str) -> bytes:
        bucket, key = split_uri(uri)
        return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def put(self, key: str, data: bytes) -> str:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def put_folder(self, prefix: str, kind: Any, files: dict[str, bytes], **metadata: Any) -> Manifest:
        for path, data in files.items():
            self.put(prefix + path, data)
        entries = [
            FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), rows=1)
            for path, data in sorted(files.items())
        ]
        manifest = Manifest(kind=kind, files=tuple(entries), metadata=metadata)
        self.put(prefix + MANIFEST, canonical_json(manifest))
        return manifest

    def write_artifact(self, job: str, spec: JobSpec) -> None:
        prefix, work = Keys.artifact(job), spec.work
        if work.type == "dataset":
            counts = {split: int(split == "train") for split in SPLITS}
            files = {"records/train-00000.jsonl": spec.identity.encode()}
            self.put_folder(
                prefix, "dataset", files, domain="facial", verifier="v@1", step_end=None, vocabulary=[], counts=counts
            )
        elif work.type == "gate":
            report = GateReport(manifest_sha256=spec.inputs["data"].sha256, passed=True, checked={})
            self.put_folder(prefix, "gate", {"gate.json": canonical_json(report)})
        elif work.type == "evaluate":
            self.put_folder(prefix, "evaluation", evaluation_files(spec))
        else:
            self.put_folder(prefix, "model", {"model.safetensors": spec.identity.encode(), "config.json": b"{}"})

    # Executions

    def start(self, machine: str, name: str, plain: Json) -> Json:
        """Run an execution to its end, and return it as the interpreter keeps it."""
        arn = f"{STEM}:stateMachine:{machine}"
        status, _, body = local_executions.start_execution(
            {"stateMachineArn": arn, "name": name, "input": json.dumps(plain)}
        )
        assert status == 200, body
        execution = sfn._executions[json.loads(body)["executionArn"]]
        deadline = time.monotonic() + 30
        while execution["status"] == "RUNNING" or running_threads():
            assert time.monotonic() < deadline, f"{name} still runs: {self.seen}"
            time.sleep(0.002)
        return execution

    def stop(self, execution: Json) -> None:
        sfn._stop_execution({"executionArn": execution["executionArn"], "error": "StoppedByUser", "cause": "chaos"})


class FakeStates:
    """What handlers ask Step Functions."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

        class ExecutionAlreadyExists(Exception):
            pass

    def __init__(self, world: World) -> None:
        self._world = world
        self.started: list[Json] = []

    def describe_execution(self, *, executionArn: str) -> Json:
        found = sfn._executions.get(executionArn)
        if found is None:
            raise self.exceptions.ExecutionDoesNotExist
        return {**found, "startDate": found["startDate"]}

    def list_executions(self, **_: Any) -> Json:
        return {"executions": []}

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> Json:
        self.started.append({"name": name, "input": json.loads(input)})
        return {"executionArn": f"{stateMachineArn.replace(':stateMachine:', ':execution:')}:{name}"}


class FakeRuntime:
    """An endpoint answers as the model that its configuration names did in its evaluation."""

    class exceptions:
        class ModelError(Exception):
            pass

    def __init__(self, world: World) -> None:
        self._world = world

    def invoke_endpoint(self, *, EndpointName: str, Body: str, **_: Any) -> Json:
        import io

        sagemaker = self._world.sagemaker
        config = sagemaker.configs[sagemaker.endpoints[EndpointName]["EndpointConfigName"]]
        model = sagemaker.models[config["ProductionVariants"][0]["ModelName"]]
        uri = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]
        sha256 = Manifest.model_validate_json(self._world.read(folder_of(uri) + MANIFEST)).sha256
        said = [answer(record["prompt"], sha256) for record in json.loads(Body)["records"]]
        return {"Body": io.BytesIO(json.dumps({"completions": said, "model_sha256": sha256}).encode())}


def answer(prompt: str, sha256: str) -> str:
    return f"{prompt} by {sha256[:6]}"


def evaluation_files(spec: JobSpec) -> dict[str, bytes]:
    model = spec.inputs["model"].sha256
    decodings = ("greedy", "sampled")
    scores = tuple(
        Score(split=s, decoding=d, metric="accepted", value=Interval(mean=0.5, low=0.4, high=0.6, count=20))  # type: ignore[arg-type]
        for s in TEST_SPLITS
        for d in decodings
    )
    report = EvaluationReport(
        spec_sha256=spec.identity, model_sha256=model, manifest_sha256=spec.inputs["data"].sha256, scores=scores
    )
    rows = [
        {"record": f"r{n}", "split": split, "decoding": decoding, "accepted": n % 2 == 0, "prompt": f"p{n}",
         "completion": answer(f"p{n}", model), "tokens": 3}
        for split in TEST_SPLITS for decoding in decodings for n in range(20)
    ]  # fmt: skip
    return {"evaluation.json": canonical_json(report), "rows.ndjson": b"\n".join(map(canonical_json, rows))}


def running_threads() -> bool:
    """Whether a thread of an execution that was stopped still works."""
    return any(getattr(thread, "_stepforge_execution", False) and thread.is_alive() for thread in threading.enumerate())


def build(patch: pytest.MonkeyPatch) -> World:
    """A world with every machine and handler. Everything that it replaces goes back with `patch`."""
    s3 = Objects()
    world = World(s3)
    for name, value in SETTINGS.items():
        patch.setenv(name, value)
    states, runtime = FakeStates(world), FakeRuntime(world)
    world.states = states
    clients = {
        "s3": s3, "sagemaker": world.sagemaker, "stepfunctions": states, "sagemaker-runtime": runtime,
        "cloudwatch": FakeAlarms(), "sns": _Silent(), "ssm": _Image(), "dynamodb": world.table,
    }  # fmt: skip
    for name, module in _modules().items():
        world.handlers[name] = module
        patch.setattr(module, "client", clients.__getitem__, raising=False)
    patch.setattr(Tools, "provider", lambda tools, request: world.vendor)
    patch.setattr("stepforge.finetune.serving.connect", lambda settings, secrets, s3: world.vendor)
    _install(world, patch)
    for machine in MACHINES:
        sfn._create_state_machine(
            {"name": machine, "definition": definition(machine), "roleArn": "arn:aws:iam::000000000000:role/r"}
        )
    return world


@cache
def _modules() -> dict[str, ModuleType]:
    """The handlers, imported as Lambda does, once: a quarter of a second for all of them."""
    lambdas = folder("lambdas")
    names = [path.stem for path in lambdas.glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(lambdas))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        # Their logs would go to whatever stream the first test of a session had.
        importlib.import_module("_runtime")._configure_logs = lambda service: None  # type: ignore[attr-defined]
        found = {name: importlib.import_module(name) for name in names if not name.startswith("_")}
    for name in names:
        sys.modules.pop(name, None)
    return found


class _Quick:
    """The module `time` for the interpreter, which lies down for a while before each execution."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Nobody has to wait."""


class _Silent:
    def publish(self, **_: Any) -> None:
        """Nobody reads it."""


class _Image:
    def get_parameter(self, **_: Any) -> Json:
        return {"Parameter": {"Value": IMAGE}}


def definition(machine: str) -> str:
    """A machine's ASL with tokens that lead back here."""
    import re

    text = (folder("statemachines") / f"{machine}.asl.json").read_text()

    def value(match: re.Match[str]) -> str:
        token = match[1]
        if token == "RunJobArn":
            return f"{STEM}:stateMachine:run-job"
        if token == "Bucket":
            return BUCKET
        if token.endswith("RoleArn"):
            return f"arn:{token}"
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", token.removesuffix("Arn")).lower()
        return f"arn:aws:lambda:us-east-1:000000000000:function:{name}"

    return re.sub(r"\$\{(\w+)\}", value, text)


_MENDS = {
    tasks: ("_execute_task", "_with_retry_and_catch", "_error_matches", "_scaled_sleep", "_send_task_heartbeat"),
    paths: ("_resolve_path", "_evaluate_rule"),
    local_executions: ("_start_execution", "_run_execution", "_fail_execution", "load_persisted_state",
                       "_describe_execution", "_invoke_nested_start_execution_sync", "_invoke_nested_start_execution"),
}  # fmt: skip


def _install(world: World, patch: pytest.MonkeyPatch) -> None:
    for module, names in _MENDS.items():
        for name in names:
            patch.setattr(sfn, name, getattr(sfn, name))
        module.install()
    patch.setattr(tasks, "_run", world.run)
    # Retries and Wait states take no time, and who waits for another looks often.
    patch.setattr(waiting, "sleep", lambda seconds: waiting.check())
    patch.setattr(sfn, "_scaled_sleep", lambda seconds: waiting.check())
    patch.setattr(waiting, "POLL_SECONDS", 0.001)
    patch.setattr(sfn, "time", _Quick())
    patch.setattr(sfn, "_read_map_items", lambda reader, effective, ctx: _items(world, reader, effective, ctx))
    real = local_executions.run_execution

    def tracked(arn: str) -> None:
        threading.current_thread()._stepforge_execution = True  # type: ignore[attr-defined]
        real(arn)

    patch.setattr(sfn, "_run_execution", tracked)
    for kept in (sfn._executions, sfn._state_machines, sfn._map_runs):
        kept.clear()


def _items(world: World, reader: Json, effective: Json, ctx: Json) -> Json:
    where = sfn._resolve_params_obj(reader["Parameters"], effective, ctx)
    return json.loads(world.read(f"s3://{where['Bucket']}/{where['Key']}"))


__all__ = ["Attempt", "Fault", "World", "build"]
