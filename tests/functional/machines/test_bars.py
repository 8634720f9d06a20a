"""What a submission survives: the local AWS behind a proxy that fails calls. The long form runs in `make verify`."""

from __future__ import annotations

import multiprocessing
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from stepforge.artifacts import read_manifest
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import MANIFEST, describe_folder, write_manifest
from stepforge.contracts.names import SPEC_TAG, job_name, parameter
from stepforge.contracts.work import DatasetWork
from stepforge.errors import IdentityConflict, InvalidInput
from stepforge.following.follow import wait_for
from stepforge.following.pace import Pace, PacedJobs
from stepforge.local import Image, register_images
from stepforge.patience import Patience, hint
from stepforge.pipelines import Pipelines
from stepforge.submitting.submission import submit
from stepforge.submitting.transfers import destination, upload
from stepforge.testing import FaultProxy, Rule
from tests.functional.local_aws.helpers import job_request, wait
from tests.support import submitters

from .conftest import CODE, IMAGE, REPOSITORY, Deployed
from .fake_image import ENDLESS

PROCESSES = 8
CREATE, DESCRIBE = "sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob"


@pytest.fixture(scope="module", autouse=True)
def instant(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image for what is submitted here: a shell that leaves a sound artifact, a hundred times a minute."""
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "records.jsonl").write_text("1\n")
    manifest = write_manifest(folder, "dataset")
    assert manifest.sha256
    lines = [
        "cd $SAGEMAKER_BASE_DIR/model",
        "echo 1 > records.jsonl",
        f"printf %s {shlex.quote((folder / MANIFEST).read_text())} > {MANIFEST}",
    ]
    repository = f"{REPOSITORY}-instant"
    register_images({repository: Image(argv_train=("/bin/sh", "-c", "; ".join(lines)))})
    image = f"{repository}@sha256:{'0' * 64}"
    ssm = deployed.aws.client("ssm")
    for published in (image, IMAGE):
        ssm.put_parameter(Name=parameter("local", "images/train"), Value=published, Type="String", Overwrite=True)
        if published == image:
            yield image


@pytest.fixture
def proxy(deployed: Deployed) -> Iterator[FaultProxy]:
    with FaultProxy(deployed.aws.endpoint_url) as proxy:
        yield proxy


def server(deployed: Deployed, proxy: FaultProxy) -> submitters.Server:
    aws = deployed.aws
    return submitters.Server(proxy.endpoint_url, aws.access_key_id, aws.secret_access_key, aws.region)


def dataset(seed: int) -> JobSpec:
    return JobSpec(domain="facial", work=DatasetWork(domain="facial", seed=seed), code_sha256=CODE["dataset"])


def jobs_of(deployed: Deployed, prefix: str) -> list[str]:
    found = deployed.aws.client("sagemaker").list_training_jobs(NameContains=prefix, MaxResults=100)
    return sorted(job["TrainingJobName"] for job in found["TrainingJobSummaries"])


# ── The same thing at once ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, mp_context=fork_server()) as pool:
        yield pool


def fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.submitters"])
    return context


def at_once(
    pool: ProcessPoolExecutor, server: submitters.Server, document: str, total: int
) -> Counter[tuple[str, str]]:
    """Submit from 8 processes that share nothing."""
    parts = [pool.submit(submitters.many, server, document, total // PROCESSES) for _ in range(PROCESSES)]
    return sum((part.result(timeout=300) for part in parts), Counter())


TOTALS = [pytest.param(64, id="64"), pytest.param(1_000, id="1000", marks=pytest.mark.slow)]


@pytest.mark.parametrize("total", TOTALS)
def test_concurrent_identical_submissions_make_exactly_one_job(
    deployed: Deployed, proxy: FaultProxy, processes: ProcessPoolExecutor, total: int
) -> None:
    spec = dataset(50_000 + total)
    began = time.monotonic()
    done = at_once(processes, server(deployed, proxy), spec.model_dump_json(), total)
    print(f"BENCH {total}_identical_submissions_seconds {time.monotonic() - began:.1f} s")
    first = job_name(spec.prefix, 0)
    assert done.total() == total
    assert {name for name, _ in done} == {first}
    assert done[first, "create"] == 1
    assert jobs_of(deployed, spec.prefix) == [first]
    assert proxy.count("*:List*") == 0
    print(f"BENCH {total}_identical_submissions_calls {proxy.count() / total:.2f} calls/submission")


@pytest.mark.parametrize("total", TOTALS)
def test_concurrent_identical_starts_of_a_pipeline_make_exactly_one_run(
    deployed: Deployed, proxy: FaultProxy, processes: ProcessPoolExecutor, total: int
) -> None:
    spec = deployed.pipeline(seed=60_000 + total, stages=1)
    done = at_once(processes, server(deployed, proxy), spec.model_dump_json(), total)
    ((name, _),) = done
    assert done.total() == total
    names = [execution["name"] for execution in deployed.executions("train")]
    assert [n for n in names if n.startswith(name.rpartition("-")[0])] == [name]
    Pipelines(deployed.connection).get(name).stop()


# ── Cut off around the create ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("fault", "adopted"), [("cut", False), ("lost", True)], ids=["before", "after"])
def test_who_is_cut_off_around_the_create_adopts_with_the_next_call(
    deployed: Deployed, proxy: FaultProxy, fault: Any, adopted: bool
) -> None:
    spec = dataset(ENDLESS * 1_000 + adopted)
    proxy.rules = [Rule(fault, CREATE, times=1)]
    with pytest.raises(ConnectionClosedError):
        submitters.submit_once(server(deployed, proxy), spec.model_dump_json())
    name = job_name(spec.prefix, 0)
    again = submit(server(deployed, proxy).connection(), spec)
    assert again.name == name
    assert (again.action != "create") is adopted
    assert jobs_of(deployed, spec.prefix) == [name]
    # The same within one call, for who is patient: the create whose answer was lost is not sent for a second job.
    patient = dataset(ENDLESS * 2_000 + adopted)
    proxy.rules = [Rule(fault, CREATE, times=1)]
    submit(server(deployed, proxy).connection(), patient)
    assert jobs_of(deployed, patient.prefix) == [job_name(patient.prefix, 0)]


@pytest.mark.parametrize("fault", ["hang", "slow"], ids=["before", "after"])
def test_a_process_killed_around_the_create_leaves_one_job_for_the_next(
    deployed: Deployed, proxy: FaultProxy, fault: Any
) -> None:
    spec = dataset(70_000 + (fault == "slow"))
    proxy.rules = [Rule(fault, CREATE, times=1, seconds=60)]
    process = fork_server().Process(
        target=submitters.submit_once, args=(server(deployed, proxy), spec.model_dump_json()), daemon=True
    )
    process.start()
    wait(lambda: proxy.count(CREATE), bool)
    if fault == "slow":
        wait(lambda: jobs_of(deployed, spec.prefix), bool)
    process.kill()
    process.join()
    proxy.rules = []
    found = submit(server(deployed, proxy).connection(), spec)
    assert (found.action == "create") is (fault == "hang")
    assert jobs_of(deployed, spec.prefix) == [job_name(spec.prefix, 0)]


def test_an_answer_lost_to_the_start_of_a_run_leads_to_that_run(deployed: Deployed, proxy: FaultProxy) -> None:
    spec = deployed.pipeline(seed=61_000, stages=1)
    proxy.rules = [Rule("lost", "states:StartExecution", times=1), Rule("lost", "s3:PUT", times=1)]
    connection = server(deployed, proxy).connection()
    first, second = Pipelines(connection).start(spec), Pipelines(connection).start(spec)
    assert first.name == second.name
    first.stop()


@pytest.mark.parametrize("by", ["hyperparameter", "tag", "nothing"])
def test_a_name_that_belongs_to_another_spec_is_a_hard_error(deployed: Deployed, by: str) -> None:
    spec = dataset(80_000 + len(by))
    name = job_name(spec.prefix, 0)
    request = job_request(name, IMAGE, bucket=deployed.bucket)
    if by == "hyperparameter":
        request["HyperParameters"] = {"spec_sha256": "f" * 64}
    if by == "tag":
        request["Tags"] = [{"Key": SPEC_TAG, "Value": "f" * 64}]
    deployed.aws.client("sagemaker").create_training_job(**request)
    before = jobs_of(deployed, spec.prefix)
    with pytest.raises(IdentityConflict, match=f"{name}.* change the spec"):
        submit(deployed.connection, spec)
    assert jobs_of(deployed, spec.prefix) == before == [name]


# ── A clock that is off, bytes that are missing ──────────────────────────────────────────────────


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_clock_off_by_ten_minutes_changes_no_name_hash_or_lock(
    deployed: Deployed, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    spec, pipeline = dataset(85_000 + minutes), deployed.pipeline(seed=62_000 + minutes, stages=1)
    connection = server(deployed, proxy).connection()
    first, run = submit(connection, spec), Pipelines(connection).start(pipeline)
    off = timedelta(minutes=minutes)
    true_time, true_now = time.time, botocore.auth.get_current_datetime
    monkeypatch.setattr(time, "time", lambda: true_time() + off.total_seconds())
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args: true_now(*args) + off)
    assert dataset(85_000 + minutes).identity == spec.identity
    again = submit(connection, spec)
    assert (again.name, again.action == "create") == (first.name, False)
    assert Pipelines(connection).start(pipeline).name == run.name
    signed = datetime.strptime(proxy.calls[-1].signed_at, "%Y%m%dT%H%M%SZ")
    assert abs((signed - datetime.fromtimestamp(true_time(), UTC).replace(tzinfo=None) - off).total_seconds()) < 60
    run.stop()


def test_a_clock_too_far_off_for_a_signature_is_explained(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    true_now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args: true_now(*args) - timedelta(minutes=20))
    with pytest.raises(ClientError) as refused:
        deployed.connection.client("sagemaker").describe_training_job(TrainingJobName="any")
    assert refused.value.response["Error"]["Code"] == "RequestTimeTooSkewed"
    assert "This machine's clock is off" in hint(refused.value)


def test_an_upload_cut_off_before_its_manifest_is_refused_and_the_next_heals_it(
    deployed: Deployed, proxy: FaultProxy, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"part-{number}.bin").write_bytes(bytes([number]) * 1_000)
    manifest = describe_folder(tmp_path, "model")
    proxy.rules = [Rule("cut", "s3:PUT", skip=2)]
    impatient = server(deployed, proxy).connection(Patience(attempts=1))
    uri = destination(impatient, manifest).uri
    with pytest.raises(ConnectionClosedError):
        upload(impatient, tmp_path, manifest)
    with pytest.raises(InvalidInput, match="does not exist"):
        read_manifest(deployed.aws.client("s3"), uri)
    proxy.rules = []
    upload(server(deployed, proxy).connection(), tmp_path, manifest)
    assert read_manifest(deployed.aws.client("s3"), uri).sha256 == manifest.sha256


# ── Many under throttling ────────────────────────────────────────────────────────────────────────


class ScaledTime:
    """A clock that runs faster than time."""

    def __init__(self, speed: float) -> None:
        self.speed, self._began = speed, time.monotonic()

    def clock(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


@pytest.mark.parametrize(
    ("count", "speed"), [pytest.param(12, 100, id="12"), pytest.param(200, 20, id="200", marks=pytest.mark.slow)]
)
def test_no_job_is_lost_under_half_of_all_calls_throttled(
    deployed: Deployed, proxy: FaultProxy, count: int, speed: int
) -> None:
    proxy.rules = [Rule("throttle", share=0.5)]
    sped = ScaledTime(speed)
    patience = Patience(clock=sped.clock, sleep=sped.sleep)
    connection = server(deployed, proxy).connection(patience)
    for service in ("s3", "sagemaker"):
        connection.client(service)
    specs = [dataset(90_000 + speed * 1_000 + number) for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        submitted = list(pool.map(lambda spec: submit(connection, spec), specs))
    assert [found.name for found in submitted] == [job_name(spec.prefix, 0) for spec in specs]

    began, before = sped.clock(), len(proxy.calls)
    pace = Pace(clock=sped.clock, sleep=sped.sleep)
    names = [one.name for one in submitted]
    jobs = PacedJobs(connection.once.client("sagemaker"), pace)
    found = {end.name: end.ending for end in wait_for(connection, jobs, names)}
    assert found == dict.fromkeys(names, "Completed")
    followed = proxy.calls[before:]
    assert {call.operation for call in followed} == {DESCRIBE}
    assert proxy.count("*:List*") == 0
    throttled = sum(call.fault is not None for call in followed) / len(followed)
    assert 0.3 < throttled < 0.7
    at: dict[str, list[float]] = {}
    for call in followed:
        at.setdefault(call.field("TrainingJobName"), []).append(call.at * speed)
    gaps = [later - earlier for times in at.values() for earlier, later in pairwise(times)]
    assert min(gaps) >= 30
    print(f"BENCH {count}_jobs_throttled_share {throttled:.2f}")
    print(f"BENCH {count}_jobs_followed_simulated_seconds {sped.clock() - began:.0f} s")
    print(f"BENCH {count}_jobs_least_seconds_between_describes {min(gaps):.1f} s")
    print(f"BENCH {count}_jobs_lost {count - len(found)}")
