"""Who stops a run stops the job that it waits for, and takes none from a run that goes on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepforge import local
from stepforge.cli import main
from stepforge.errors import RunFailed
from stepforge.following.stopping import Stopped, Waiting, waiting_for
from stepforge.jobs import Jobs
from stepforge.pipelines import Pipelines, Run
from tests.functional.local_aws.helpers import ended, wait

from .conftest import Deployed, deploy_fake
from .fake_image import ENDLESS, FOREVER


def start(deployed: Deployed, *, rate: float, seed: int = ENDLESS) -> Run:
    return Pipelines(deployed.connection).start(deployed.pipeline(seed=seed, rate=rate, stages=1))


def dataset(run: Run) -> str:
    """The newest attempt at the run's first job."""
    return run.jobs()[0].attempt.name


def until_waiting(run: Run, *, owner: bool) -> None:
    """Until it waits for its first job, as the one that started it or for another's."""
    prefix = run.jobs()[0].spec.prefix
    wait(lambda: waiting_for(run.connection, prefix), lambda found: Waiting(run.name, owner) in found)


def test_a_job_that_two_runs_wait_for_is_done_for_the_one_that_is_not_stopped(deployed: Deployed) -> None:
    jobs = Jobs(deployed.connection)
    owner = start(deployed, rate=0.1)
    until_waiting(owner, owner=True)
    other = start(deployed, rate=0.2)
    until_waiting(other, owner=False)
    first = dataset(owner)

    # Who adopted the job leaves it to the one that started it.
    assert other.stop() == Stopped(other.name, "RUNNING", None, first, False, (Waiting(owner.name, True),))
    assert other.refresh().word == "ABORTED (StoppedByUser)"
    assert jobs.get(first)["TrainingJobStatus"] == "InProgress"

    # The job of the one that started it ends with it; who adopted it goes on with the next attempt.
    other = start(deployed, rate=0.2)
    until_waiting(other, owner=False)
    assert owner.stop() == Stopped(owner.name, "RUNNING", None, first, True, (Waiting(other.name, False),))
    assert ended(deployed.aws, first)["TrainingJobStatus"] == "Stopped"
    second = wait(lambda: dataset(other), lambda name: name != first)
    assert ended(deployed.aws, second)["TrainingJobStatus"] == "Completed"
    other.stop()

    # What has ended says how, and stays as it is.
    assert owner.stop().status == "ABORTED (StoppedByUser)"
    found = jobs.stop(second)
    assert (found.status, found.job_stopped, found.ended is not None) == ("Completed", False, True)


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    """A local AWS of its own, that the test may stop."""
    monkeypatch.setenv("STEPFORGE_HOME", str(tmp_path / "home"))
    yield deploy_fake(local.ensure_up())
    local.down()


def test_a_run_that_the_end_of_the_server_cut_off_says_so_and_its_job_is_stopped_with_the_next(
    own: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(own, seed=FOREVER, rate=0.1)
    until_waiting(run, owner=True)
    job = dataset(run)
    wait(
        lambda: own.aws.client("sagemaker").describe_training_job(TrainingJobName=job)["SecondaryStatus"],
        "Training".__eq__,
    )

    # Nobody can be asked without a terminal, and on one the answer is no: nothing is done.
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["local", "down"]) == 130
    assert f"{run.name} is under way" in capsys.readouterr().err
    assert main(["local", "down", "--json"]) == 2
    assert f"{run.name} is under way" in json.loads(capsys.readouterr().out)["message"]
    assert main(["local", "status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["running"], status["runs"], status["jobs"]) == (True, [run.name], [job])
    assert status["waiting"] == []
    assert isinstance(status["pid"], int)
    assert 50 < status["memory_mb"] < 4000
    assert main(["local", "down", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": True, "interrupted": [run.name]}
    assert main(["local", "down"]) == 0
    assert "was not running" in capsys.readouterr().out

    local.ensure_up()
    with pytest.raises(RunFailed, match=f"run {run.name} INTERRUPTED: .* the same command goes on from the last"):
        run.result()

    # The job trains again by itself; the same pipeline adopts it, and takes it along when it is stopped.
    again = start(own, seed=FOREVER, rate=0.1)
    assert again.name != run.name
    until_waiting(again, owner=False)
    assert run.stop() == Stopped(
        run.name, "INTERRUPTED", run.execution.stopped, job, False, (Waiting(again.name, False),)
    )
    assert again.stop() == Stopped(again.name, "RUNNING", None, job, True)
    assert ended(own.aws, job)["TrainingJobStatus"] == "Stopped"
