"""A job that is submitted directly is the job that the machine `run-job` creates."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

import pytest

from stepforge import logs
from stepforge.contracts.environment import Environment
from stepforge.contracts.jobs import JobRequest
from stepforge.contracts.resources import Resources, Vpc
from stepforge.contracts.work import WORK_TYPES, WorkType
from stepforge.machines.attempts import find_attempt
from stepforge.submitting.submission import training_request
from tests.fakes import FakeSageMaker
from tests.infra.machines import state

ENVIRONMENT = Environment(
    name="dev",
    bucket="stepforge-dev",
    key_arn="arn:aws:kms:us-east-1:123456789012:key/0",
    training_role_arn="arn:aws:iam::123456789012:role/training",
    role_arns={kind: f"arn:aws:iam::123456789012:role/{kind}" for kind in ("dataset", "gate", "evaluate")},
    serving_role_arn="arn:aws:iam::123456789012:role/serving",
    machines={},
    images={"train": "repository/stepforge-train@sha256:" + "0" * 64},
    code=dict.fromkeys(WORK_TYPES, "c" * 64),
)
TOKENS = {
    "Bucket": ENVIRONMENT.bucket,
    **{
        f"{kind.title()}RoleArn": f"arn:aws:iam::123456789012:role/{kind}"
        for kind in ("dataset", "gate", "training", "evaluate")
    },
}
FORMAT = re.compile(r"States\.Format\('([^']*)', (\$[\w.]+)\)")


def resolved(payload: Any, given: dict[str, Any]) -> Any:
    """A payload template with its paths and `States.Format` evaluated, as Step Functions would."""
    if isinstance(payload, str):
        return re.sub(r"\$\{(\w+)\}", lambda token: TOKENS[token[1]], payload)
    if not isinstance(payload, dict):
        return payload
    plain = {}
    for key, value in payload.items():
        if not key.endswith(".$"):
            plain[key] = resolved(value, given)
        elif found := FORMAT.fullmatch(value):
            plain[key[:-2]] = resolved(found[1], given).replace("{}", at(found[2], given))
        else:
            plain[key[:-2]] = at(value, given)
    return plain


def role_of(name: str) -> str:
    """The role with which the machine creates a job of this name: the way through its choices."""
    kind = state("run-job", "WhatKind")
    chosen = [
        c["Next"] for c in kind["Choices"] if fnmatch(name, c["StringMatches"]) and c["Variable"] == "$.attempt.name"
    ]
    put = state("run-job", [*chosen, kind["Default"]][0])
    assert put["ResultPath"] == "$.role_arn"
    return str(resolved(put["Result"], {}))


def at(path: str, given: dict[str, Any]) -> Any:
    for part in path.removeprefix("$.").split("."):
        given = given[part]
    return given


RICH = Resources(
    instance_type="ml.m5.large",
    instance_count=2,
    fallback_instance_types=("ml.m5.xlarge",),
    keep_alive_seconds=60,
    input_mode="FastFile",
    retry_attempts=5,
    network_isolation=False,
    encrypt_between_hosts=False,
    output_key_arn="arn:aws:kms:us-east-1:123456789012:key/1",
    vpc=Vpc(subnets=("subnet-1",), security_groups=("sg-1",)),
)


@pytest.mark.parametrize(
    ("creates", "resources"),
    [("Create", Resources(spot=True, instance_count=2, max_wait_seconds=200_000)), ("CreateInVpc", RICH)],
    ids=["spot", "everything else"],
)
def test_a_direct_submission_sends_what_the_machine_run_job_sends(creates: str, resources: Resources) -> None:
    request = JobRequest(
        prefix="sft-" + "a" * 12,
        spec_sha256="a" * 64,
        spec_uri="s3://stepforge-dev/specs/a/spec.json",
        image=ENVIRONMENT.images["train"],
        channels={"spec": "s3://stepforge-dev/specs/a/", "data": "s3://stepforge-dev/jobs/d/output/model/"},
        resources=resources,
    )
    found = find_attempt(
        FakeSageMaker(), None, request, bucket=ENVIRONMENT.bucket, key_arn=ENVIRONMENT.key_arn, poll_seconds=1
    )
    given = {**found.model_dump(mode="json"), "role_arn": role_of(found.attempt.name)}
    machine = resolved(state("run-job", creates)["Parameters"], given)

    assert training_request(ENVIRONMENT, request, found.attempt) == machine
    assert machine["Environment"] == logs.environment()


@pytest.mark.parametrize("work", WORK_TYPES)
def test_the_machine_and_a_direct_submission_give_a_job_the_role_of_its_kind(work: WorkType) -> None:
    expected = "training" if work in ("sft", "srl", "rlvr") else work
    assert role_of(f"{work}-{'a' * 12}-a0") == f"arn:aws:iam::123456789012:role/{expected}"
    assert ENVIRONMENT.role_of(work) == role_of(f"{work}-{'a' * 12}-a0")
