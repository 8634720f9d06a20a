"""A submission creates or adopts one job, and tells what is wrong with the job from what is wrong with the day."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge.cli import main
from stepforge.contracts.base import canonical_json
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.names import SPEC_TAG, job_name
from stepforge.contracts.resources import Resources
from stepforge.contracts.work import DatasetWork
from stepforge.errors import EnvironmentUnavailable, InvalidJob, ResourceLimitExceeded
from stepforge.patience import Patience
from stepforge.submitting.submission import Submission, spec_request, submit
from tests.fakes import FakeSageMaker, described, of_request, refusal
from tests.unit.plans.cloud import ENVIRONMENT, FakeObjects

SPEC = JobSpec(domain="facial", work=DatasetWork(domain="facial"), code_sha256="c" * 64)
FIRST = job_name(SPEC.prefix, 0)


class Creating(FakeSageMaker):
    """Creates jobs, or refuses to with these errors one after the other; a stopped one ends at its third Describe."""

    def __init__(self, *refusals: Exception) -> None:
        super().__init__()
        self.refusals = list(refusals)
        self.described = 0
        self.created: list[dict[str, Any]] = []

    def create_training_job(self, **request: Any) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.created.append(request)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        self.add_job(request["TrainingJobName"], tags[SPEC_TAG], "InProgress", **described(request))

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:
        self.described += 1
        job = super().describe_training_job(TrainingJobName=TrainingJobName)
        if job["TrainingJobStatus"] == "Stopping" and self.described > 2:
            job |= {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}
        return job


class Cloud:
    """A connection to these jobs."""

    name, endpoint_url, environment = "dev", "http://127.0.0.1:9", ENVIRONMENT

    def __init__(self, sagemaker: Creating) -> None:
        self.slept: list[float] = []
        self.patience = Patience(sleep=self.slept.append, random=lambda: 1.0)
        self.clients = {"sagemaker": sagemaker, "s3": FakeObjects()}
        self.once = SimpleNamespace(client=self.client, answers=0)
        self.caller = self

    def client(self, service: str) -> Any:
        return self.clients[service]


def refused(code: str, message: str = "no") -> ClientError:
    return refusal("CreateTrainingJob", message, code)


@pytest.mark.parametrize(
    "error",
    [
        refused("ExpiredTokenException"),
        refused("ThrottlingException"),
        refused("InternalFailure"),
        refused("InvalidSignatureException", "Signature expired: 20261122T000000Z is now earlier than"),
    ],
    ids=["expired", "throttled", "5xx", "clock"],
)
def test_what_passes_is_no_fault_of_the_job(error: ClientError) -> None:
    connection: Any = Cloud(Creating(error))
    with pytest.raises(ClientError) as raised:
        submit(connection, SPEC)
    assert raised.value is error
    assert submit(connection, SPEC) == Submission(FIRST, "create")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ValidationException", InvalidJob),
        ("AccessDeniedException", InvalidJob),
        ("ResourceLimitExceeded", ResourceLimitExceeded),
    ],
)
def test_what_is_refused_about_the_request_is_the_jobs_own_failure(code: str, kind: type[Exception]) -> None:
    connection: Any = Cloud(Creating(refused(code, "look at InstanceType")))
    with pytest.raises(kind, match="look at InstanceType"):
        submit(connection, SPEC)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredTokenException", "aws sso login"),
        ("ThrottlingException", "Run it again"),
        ("InternalFailure", "Run it"),
    ],
)
def test_the_command_line_says_what_to_do_about_what_passes(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise refused(code)

    monkeypatch.setattr("stepforge.cli._app.app", fails)
    assert main(["submit"]) == 5
    assert said in capsys.readouterr().err


def test_a_lost_race_is_adopted_without_a_pause() -> None:
    sagemaker = Creating()
    connection: Any = Cloud(sagemaker)

    def lose(**request: Any) -> None:
        Creating.create_training_job(sagemaker, **request)
        raise refused("ResourceInUse")

    sagemaker.create_training_job = lose  # type: ignore[method-assign]
    assert submit(connection, SPEC) == Submission(FIRST, "poll")
    assert connection.slept == []


def test_a_name_that_is_taken_by_nothing_is_looked_at_with_pauses_and_given_up() -> None:
    sagemaker = Creating(*[refused("ResourceInUse")] * 1_000)
    connection: Any = Cloud(sagemaker)
    with pytest.raises(EnvironmentUnavailable, match=f"{FIRST}.*no such job, 9 times.*Run it again in some minutes"):
        submit(connection, SPEC)
    assert connection.slept == [2, 4, 8, 16, 20, 20, 20]


def test_a_job_that_stops_is_waited_for_and_the_next_attempt_made() -> None:
    sagemaker = Creating()
    sagemaker.add_job(FIRST, SPEC.identity, "Stopping", **of_request(spec_request(ENVIRONMENT, SPEC)))
    connection: Any = Cloud(sagemaker)
    told: list[str] = []
    began = time.monotonic()
    assert submit(connection, SPEC, Resources(instance_type="ml.m5.large"), told=told.append) == Submission(
        job_name(SPEC.prefix, 1), "create"
    )
    assert time.monotonic() - began < 5
    assert told == [f"{FIRST} is stopping: the next attempt goes on when it has ended"]
    assert canonical_json(SPEC) in connection.clients["s3"].objects.values()


def test_a_job_that_runs_is_adopted_and_not_waited_for() -> None:
    sagemaker = Creating()
    sagemaker.add_job(FIRST, SPEC.identity, "InProgress", **of_request(spec_request(ENVIRONMENT, SPEC)))
    connection: Any = Cloud(sagemaker)
    assert submit(connection, SPEC) == Submission(FIRST, "poll")
    assert sagemaker.created == []
