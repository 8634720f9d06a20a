"""Executions of the machines `evaluate` and `dataset`: started or adopted by what is asked for, and waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from stepforge import executions
from stepforge.artifacts import read_report
from stepforge.connection import LOCAL, Connection
from stepforge.contracts.base import Contract, canonical_json
from stepforge.contracts.jobs import ArtifactRef
from stepforge.contracts.names import Keys, Machine
from stepforge.contracts.registry import PackageMetadata
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.requests import AssemblyOutput, AssemblySpec, EvaluateOutput, EvaluationSpec, SpecRef
from stepforge.contracts.resources import Resources
from stepforge.contracts.work import EvaluateWork
from stepforge.errors import InvalidInput, RunFailed
from stepforge.executions import Execution, run_failure
from stepforge.packages import EVALUATION
from stepforge.recipes import bound_resources, job_image
from stepforge.registry import Package

Output = TypeVar("Output", bound=Contract)


@dataclass
class Started(Generic[Output]):
    """An execution, and the model of its output."""

    connection: Connection
    execution: Execution
    output: type[Output]

    @property
    def name(self) -> str:
        return self.execution.name

    def wait(self, *, timeout_seconds: float = 7 * 86_400.0) -> Output:
        """Block until it has ended. Raises RunFailed with its cause, or where it has not ended in time."""
        pause, began = (0.1 if self.connection.name == LOCAL else 15.0), time.monotonic()
        while time.monotonic() - began < timeout_seconds:
            found = executions.describe(self.connection.client("stepfunctions"), self.execution.arn)
            assert found is not None  # it was started
            self.execution = found
            if found.status == "SUCCEEDED":
                return self.output.model_validate(found.output)
            if found.status not in executions.ADOPTED:
                raise run_failure(found.name, found)
            time.sleep(pause)
        raise RunFailed(f"{self.name} has not ended within {timeout_seconds:.0f} s: it goes on; look at it again")


def evaluate(connection: Connection, spec: EvaluationSpec) -> Started[EvaluateOutput]:
    """Score one model on one dataset. The same spec twice is one execution, and one job."""
    return Started(connection, _start(connection, "evaluate", spec), EvaluateOutput)


def assemble(connection: Connection, spec: AssemblySpec) -> Started[AssemblyOutput]:
    """Make a dataset of many uploads of records, a job each."""
    return Started(connection, _start(connection, "dataset", spec), AssemblyOutput)


def evaluation_spec(
    connection: Connection,
    package: Package,
    data: ArtifactRef,
    *,
    work: EvaluateWork | None = None,
    resources: Resources | None = None,
) -> EvaluationSpec:
    """The spec that scores a registered version on `data`. Raises InvalidInput where stepforge did not register it."""
    metadata = PackageMetadata.of(package.metadata)
    if metadata is None or package.artifact is None:
        raise InvalidInput(f"model {package.reference} names no artifact: it was not registered by stepforge")
    environment = connection.environment
    bound = bound_resources({} if resources is None else {"evaluate": resources}, environment)
    return EvaluationSpec(
        domain=metadata.domain,
        model=package.artifact,
        data=data,
        evaluation=work or EvaluateWork(),
        code_sha256=environment.code["evaluate"],
        image=job_image(environment, "evaluate"),
        resources=bound["evaluate"],
    )


def scores(connection: Connection, output: EvaluateOutput) -> EvaluationReport:
    """Raises IntegrityError where they were altered."""
    return read_report(connection.client("s3"), output.evaluation.artifact, EVALUATION, EvaluationReport)


def _start(connection: Connection, machine: Machine, spec: EvaluationSpec | AssemblySpec) -> Execution:
    environment, key = connection.environment, Keys.request(machine, spec.identity)
    connection.client("s3").put_object(
        Bucket=environment.bucket,
        Key=key,
        Body=canonical_json(spec),
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=environment.key_arn,
    )
    ref = SpecRef(spec_uri=f"s3://{environment.bucket}/{key}", spec_sha256=spec.identity)
    states = connection.client("stepfunctions")
    arn = environment.machines[machine]
    return executions.start_or_adopt(states, arn, machine, spec.identity, ref.model_dump(mode="json"))
