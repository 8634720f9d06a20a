"""Metrics in MLflow: each once, from its own client in a database file, and never at the cost of training."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import job_folder, opened
from tests.support.kills import die_in_step

from stepforge.contracts.manifests import sha256_of
from stepforge.contracts.reports import StageReport
from stepforge.contracts.work import DatasetWork, LocalModel, SftWork
from stepforge.errors import EnvironmentUnavailable
from stepforge.report.reading import parse_metrics
from stepforge.tracking import runs
from stepforge.tracking.mlflow_run import IDENTITY, TRACKING_URI, MlflowRun, client_of
from stepforge_jobs.training import shipping
from stepforge_jobs.training.metrics_log import MetricsLog

STEPS = 6
WORK = SftWork(steps=STEPS, checkpoint_every=2, batch_size=8)
ROWS = [{"step": step, "time": 1e9 + step, "loss": 1.0 / step, "kl": 0.1} for step in range(1, 6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of MLflow's; making its tables takes seconds, so it is made once."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client_of(uri).search_experiments()
    return uri


def lay_out(base: Path, world: World, work: SftWork = WORK) -> Path:
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    return base


def points(store: str, experiment: str, identity: str) -> tuple[Counter[tuple[str, int]], Any]:
    """How often each (metric, step) is recorded, and the run; there must be exactly one of this identity."""
    client = client_of(store)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id], filter_string=f"tags.`{IDENTITY}` = '{identity}'")
    history = [metric for name in run.data.metrics for metric in client.get_metric_history(run.info.run_id, name)]
    return Counter((metric.key, metric.step) for metric in history), run


def track(store: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """`stepforge track` over one finished stage."""
    stage = SimpleNamespace(
        stage="sft",
        report=StageReport.model_validate_json((model / "run.json").read_bytes()),
        curves=parse_metrics((model / "metrics.jsonl").read_bytes()),
    )
    report = SimpleNamespace(domain="counting", jobs=[], stages=[stage])
    monkeypatch.setattr(runs, "read_run", lambda _: report)
    return runs.track_run(SimpleNamespace(), store)  # type: ignore[arg-type]


def in_store(store: str) -> Any:
    def prepare() -> None:
        os.environ[TRACKING_URI] = store

    return prepare


def test_a_killed_and_resumed_job_records_each_metric_once(
    world: World, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = lay_out(tmp_path / "job", world)

    def prepare() -> None:
        in_store(store)()
        # After the first checkpoint was sent, and before the second.
        die = die_in_step(3)
        original = shipping.MlflowRun.log

        def log(self: MlflowRun, rows: Any) -> int:
            count = original(self, rows)
            sent.touch()
            return count

        shipping.MlflowRun.log = log  # type: ignore[method-assign]
        final = shipping.Shipping.final

        def wait(self: shipping.Shipping, step: int) -> None:
            final(self, step)
            deadline = time.monotonic() + 60
            while step and not sent.exists() and time.monotonic() < deadline:
                time.sleep(0.01)

        shipping.Shipping.final = wait  # type: ignore[method-assign]
        die()

    sent = tmp_path / "sent"
    assert forked.run(base, prepare=prepare) == -signal.SIGKILL
    assert sent.exists()
    assert forked.run(base, prepare=in_store(store)) == 0, (base / "log.txt").read_text()[-2000:]
    identity = job_folder(base, WORK, start=LocalModel(), model=world.base, **world.inputs).identity
    counts, run = points(store, "stepforge/counting", identity)
    assert set(counts.values()) == {1}
    assert {step for name, step in counts if name == "loss"} == set(range(1, STEPS + 1))
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == str(WORK.learning_rate)
    assert track(store, base / "model", monkeypatch) == {"sft": 0}, "the artifact has nothing that the job did not send"


def test_what_a_job_without_network_measured_is_sent_from_its_artifact(
    world: World, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = WORK.model_copy(update={"seed": 1})
    model = forked.succeed(lay_out(tmp_path / "job", world, work))
    (sent,) = track(store, model, monkeypatch).values()
    identity = StageReport.model_validate_json((model / "run.json").read_bytes()).spec_sha256
    counts, run = points(store, "stepforge/counting", identity)
    assert sent == len(counts) > STEPS
    assert set(counts.values()) == {1}
    assert run.info.status == "FINISHED"
    assert track(store, model, monkeypatch) == {"sft": 0}


def test_a_server_that_fails_is_named_with_what_to_do(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = forked.succeed(lay_out(tmp_path / "job", world))
    with server_that_fails() as uri, pytest.raises(EnvironmentUnavailable, match=f"{uri} did not take .* Run it again"):
        track(uri, model, monkeypatch)


class Lossy(MlflowRun):
    """Its first batch arrives, but not the answer."""

    lost = False

    def _open(self) -> str:
        run = super()._open()
        if not self.lost:
            self.lost = True
            original = self._client.log_batch

            def log_batch(*args: Any, **named: Any) -> None:
                original(*args, **named)
                self._client.log_batch = original
                raise TimeoutError("no answer")

            self._client.log_batch = log_batch
        return run


def test_a_batch_whose_answer_was_lost_is_not_recorded_twice(store: str) -> None:
    run = Lossy(store, experiment="lost", name="a", spec_sha256="1" * 64)
    with pytest.raises(TimeoutError):
        run.log(ROWS[:3])
    # Another time: what is sent twice would be recorded twice, where stores compare time stamps.
    assert run.log([{**row, "time": row["time"] + 1} for row in ROWS]) == 4
    assert MlflowRun(store, experiment="lost", name="a", spec_sha256="1" * 64).log(ROWS) == 0
    counts, _ = points(store, "lost", "1" * 64)
    assert counts == Counter({(name, step): 1 for name in ("loss", "kl") for step in range(1, 6)})


class Broken(BaseHTTPRequestHandler):
    """A tracking server that has lost its database."""

    calls = 0

    def do_GET(self) -> None:
        type(self).calls += 1
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@contextmanager
def server_that_fails() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def server_that_hangs() -> Iterator[str]:
    """Takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("server", [server_that_fails, server_that_hangs], ids=["answers-500", "hangs"])
def test_a_server_that_does_not_serve_neither_stops_nor_slows_training(
    world: World, tmp_path: Path, server: Any
) -> None:
    calm = forked.succeed(lay_out(tmp_path / "calm", world))
    base = lay_out(tmp_path / "job", world)

    def prepare() -> None:
        os.environ |= {TRACKING_URI: uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        shipping.CLOSE_SECONDS = 2.0
        shipping.FIRST_PAUSE_SECONDS = 0.05

    with server() as uri:
        started = time.monotonic()
        assert forked.run(base, prepare=prepare) == 0
        seconds = time.monotonic() - started
    log = (base / "log.txt").read_text()
    assert "takes no metrics, trying again" in log
    assert f"the metrics of {STEPS} steps did not reach MLflow" in log
    assert sha256_of(base / "model" / "model.safetensors") == sha256_of(calm / "model.safetensors")
    assert seconds < 60
    if server is server_that_fails:
        assert Broken.calls > 1


def test_a_server_that_comes_back_gets_everything(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread alone, over a write-ahead file."""
    job_folder(tmp_path / "job", DatasetWork(domain="counting"), code=None)
    job = opened(tmp_path / "job")
    refusals = iter(range(3))
    original = MlflowRun.log

    def log(self: MlflowRun, rows: Any) -> int:
        if next(refusals, None) is not None:
            raise ConnectionError("not now")
        return original(self, rows)

    monkeypatch.setattr(MlflowRun, "log", log)
    monkeypatch.setattr(shipping, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv(TRACKING_URI, store)
    ahead = MetricsLog(job.checkpoint_dir, [], warn=print)
    sending = shipping.Shipping(job, WORK, ahead.path)
    for row in ROWS:
        ahead.append({name: value for name, value in row.items() if name != "time"})
    sending.final(3)
    sending.final(5)
    sending.close()
    counts, _ = points(store, "stepforge/counting", job.spec.identity)
    assert counts == Counter({(name, step): 1 for name in ("loss", "kl") for step in range(1, 6)})
