"""Runs and jobs of the local AWS are followed through a proxy that fails calls, to the ends that they really have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from stepforge import connection as connections
from stepforge.cli import _follow
from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec, Resources
from stepforge.contracts.work import DatasetWork
from stepforge.errors import AlgorithmError, Detached, MaxRuntimeExceeded, Stopped
from stepforge.following import pace
from stepforge.following.pace import Pace
from stepforge.jobs import Jobs
from stepforge.pipelines import Pipelines
from stepforge.submitting.submission import submit
from stepforge.testing import FaultProxy, Rule
from tests.functional.local_aws.helpers import ended, wait
from tests.support.submitters import Server

from .conftest import CODE, Deployed
from .fake_image import FOREVER

PACE = Pace(describe_seconds=0.2, logs_seconds=0.05, give_up_seconds=60)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows without a pace of its own asks as often here."""
    monkeypatch.setattr(pace, "LOCAL_PACE", PACE)


@pytest.fixture
def proxy(deployed: Deployed) -> Iterator[FaultProxy]:
    with FaultProxy(deployed.aws.endpoint_url, seed=3) as proxy:
        yield proxy


def through(deployed: Deployed, proxy: FaultProxy) -> Connection:
    aws = deployed.aws
    return Server(proxy.endpoint_url, aws.access_key_id, aws.secret_access_key, aws.region).connection()


def dataset(seed: int) -> JobSpec:
    return JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])


def client(connection: Connection) -> Any:
    return SimpleNamespace(connection=connection, jobs=Jobs(connection), pipelines=Pipelines(connection))


def test_a_run_is_followed_to_its_end_through_every_kind_of_trouble(deployed: Deployed, proxy: FaultProxy) -> None:
    connection = through(deployed, proxy)
    run = Pipelines(connection).start(deployed.pipeline(seed=63_000, stages=1))
    connection.once.client("sagemaker"), connection.once.client("logs"), connection.once.client("s3")
    kinds = ("throttle", "too_many_requests", "error", "unavailable", "cut", "lost", "expired")
    proxy.rules = [Rule(kind, share=0.06) for kind in kinds]
    told = list(run.follow(pace=PACE))
    proxy.rules = []
    assert [(e.stage, e.data["status"]) for e in told if e.kind == "done"] == [
        (stage, "Completed") for stage in ("dataset", "gate", "sft", "evaluate")
    ]
    troubles = {e.data["trouble"] for e in told if e.kind == "paused"}
    assert {"throttled", "unavailable"} <= troubles <= {"throttled", "unavailable", "credentials"}
    assert run.result()["package_arn"]
    assert [e.kind for e in told].count("resumed") >= 1
    assert proxy.count("sagemaker:List*") == 0
    page = run._repr_html_()
    assert "SUCCEEDED" in page
    assert page.count("Completed") == 4


def test_an_answer_that_never_ends_is_given_up_and_asked_for_again(
    deployed: Deployed, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_ONCE_SECONDS", 0.5)
    connection = through(deployed, proxy)
    job = submit(connection, dataset(63_001)).name
    ended(deployed.aws, job)
    proxy.rules = [Rule("drip", "sagemaker:DescribeTrainingJob", times=2, seconds=0.2)]
    told = [(event.kind, event.data.get("trouble")) for event in Jobs(connection).follow(job, pace=PACE)]
    assert told[:2] == [("paused", "unavailable")] * 2
    assert told[-1] == ("resumed", None)
    assert ("done", None) in told


@pytest.mark.parametrize(
    ("seed", "limit", "error", "code"),
    [(207, 60, AlgorithmError, 4), (FOREVER, 60, Stopped, 7), (FOREVER, 1, MaxRuntimeExceeded, 8)],
    ids=["failed", "stopped", "too-long"],
)
def test_an_end_that_is_no_success_has_its_own_exit_code_and_advice(
    deployed: Deployed, capsys: pytest.CaptureFixture[str], seed: int, limit: int, error: type, code: int
) -> None:
    connection = deployed.connection
    found = submit(connection, dataset(seed), Resources(max_runtime_seconds=limit))
    if error is Stopped:
        sagemaker = deployed.aws.client("sagemaker")
        wait(lambda: sagemaker.describe_training_job(TrainingJobName=found.name)["SecondaryStatus"], "Training".__eq__)
        Jobs(connection).stop(found.name)
    with pytest.raises(typer.Exit) as left:
        _follow.follow_job(client(connection), found.name, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (left.value.exit_code, said["exit_code"], said["error"]) == (code, code, error.__name__)
    assert said["advice"]
    assert (said["job"], said["links"]) == (found.name, {})
    with pytest.raises(error):
        _follow.follow_job(client(connection), found.name, as_json=False)
    assert said["advice"] in capsys.readouterr().err
    view = Jobs(connection).view(found.name)
    assert view.ending == said["status"]
    assert said["advice"] in view._repr_html_()


def test_ctrl_c_detaches_and_what_was_followed_goes_on(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = deployed.connection
    job = submit(connection, dataset(FOREVER), Resources(max_runtime_seconds=59)).name
    followed = client(connection)

    def interrupted(name: str, **_: Any) -> Iterator[Any]:
        yield next(iter(Jobs(connection).follow(name)))
        raise KeyboardInterrupt

    followed.jobs = SimpleNamespace(follow=interrupted)
    with pytest.raises(Detached, match=f"{job} goes on. Come back with `stepforge watch {job}`") as detached:
        _follow.follow_job(followed, job, as_json=False)
    assert detached.value.exit_code == 130
    assert Jobs(connection).get(job)["TrainingJobStatus"] == "InProgress"
    Jobs(connection).stop(job)
    assert ended(deployed.aws, job)["TrainingJobStatus"] == "Stopped"
