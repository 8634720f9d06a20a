"""Start or adopt executions of the machines `evaluate` and `dataset`, and find them by their names."""

from __future__ import annotations

import re
from typing import Any

from stepforge.artifacts import read_report, write_json
from stepforge.connection import Connection
from stepforge.contracts.names import Keys, Machine
from stepforge.contracts.reports import EvaluationReport
from stepforge.contracts.requests import AssemblyOutput, AssemblySpec, EvaluateOutput, EvaluationSpec, SpecRef
from stepforge.errors import UnknownName
from stepforge.following.job_runs import JobRun
from stepforge.machines import executions
from stepforge.machines.assembly import read_spec
from stepforge.machines.executions import Execution
from stepforge.machines.packages import EVALUATION

_NAME = re.compile(r"(evaluate|dataset)-[0-9a-f]{12}-r\d+")
_LISTED = 20


def is_job_run(name: str) -> bool:
    """Whether a name is that of an execution of `evaluate` or `dataset`, by its form."""
    return _NAME.fullmatch(name) is not None


def evaluate(connection: Connection, spec: EvaluationSpec) -> JobRun[EvaluateOutput, EvaluationSpec]:
    """Score one model on one dataset. The same spec twice is one execution, and one job."""
    return JobRun(connection, _start(connection, "evaluate", spec), EvaluateOutput, spec)


def assemble(connection: Connection, spec: AssemblySpec) -> JobRun[AssemblyOutput, AssemblySpec]:
    """Make a dataset in parts, a job each: of many uploads of records, or of what a domain generates."""
    return JobRun(connection, _start(connection, "dataset", spec), AssemblyOutput, spec)


def scores(connection: Connection, output: EvaluateOutput) -> EvaluationReport:
    """Raises IntegrityError where they were altered."""
    return read_report(connection.client("s3"), output.evaluation.artifact, EVALUATION, EvaluationReport)


def _start(connection: Connection, machine: Machine, spec: EvaluationSpec | AssemblySpec) -> Execution:
    environment = connection.environment
    bucket, key = environment.bucket, Keys.request(machine, spec.identity)
    write_json(connection.client("s3"), spec, bucket=bucket, key=key, key_arn=environment.key_arn)
    ref = SpecRef(spec_uri=f"s3://{bucket}/{key}", spec_sha256=spec.identity)
    states, arn = connection.client("stepfunctions"), environment.machines[machine]
    return executions.start_or_adopt(states, arn, machine, spec.identity, ref.model_dump(mode="json"))


def find(connection: Connection, name: str) -> JobRun[Any, Any]:
    """The execution of this name. Raises UnknownName with the newest of its machine."""
    machine: Machine = "dataset" if name.startswith("dataset-") else "evaluate"
    states, arn = connection.client("stepfunctions"), connection.environment.machines[machine]
    found = executions.describe(states, executions.execution_arn(arn, name))
    if found is None or found.input is None:
        newest = states.list_executions(stateMachineArn=executions.unqualified(arn), maxResults=_LISTED)["executions"]
        raise UnknownName(f"run of {machine}", name, [run["name"] for run in newest], newest=len(newest) == _LISTED)
    ref = SpecRef.model_validate(found.input)
    s3 = connection.client("s3")
    if machine == "evaluate":
        return JobRun(connection, found, EvaluateOutput, read_spec(s3, ref, EvaluationSpec))
    return JobRun(connection, found, AssemblyOutput, read_spec(s3, ref, AssemblySpec))
