"""Custom jobs with google-cloud-aiplatform's own client against the local server: once, looked at, cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from google.oauth2.credentials import Credentials

from stepforge.errors import IdentityConflict, ProviderRefused, ProviderUnavailable, Throttled
from stepforge.finetune import State
from stepforge.finetune.vertex_calls import LABEL
from stepforge.finetune.vertex_jobs import Container, VertexJobs
from stepforge.testing.providers import LocalVertex

IMAGE = "us-docker.pkg.dev/vertex-ai/cair/vaipo:preview_v1_0"
JOBS = "/v1/projects/demo/locations/us-central1/customJobs"
CONTAINER = Container(
    image=IMAGE,
    args=("--config=gs://bucket/config.json",),
    most_seconds=3600,
    service_account="runner@demo.iam.gserviceaccount.com",
    output_uri="gs://bucket/out",
    kms_key="projects/demo/locations/us-central1/keyRings/r/cryptoKeys/k",
)


@pytest.fixture
def server() -> Iterator[LocalVertex]:
    with LocalVertex(delay_seconds=0.02) as running:
        assert isinstance(running, LocalVertex)
        yield running


def jobs(server: LocalVertex) -> VertexJobs:
    return VertexJobs(
        project="demo", location="us-central1", credentials=Credentials(token="ya29.test"), base_url=server.url
    )


def test_a_job_says_what_runs_for_how_long_and_whose_launch_it_is(server: LocalVertex) -> None:
    made = jobs(server).submit(CONTAINER, key="sf-1", display_name="stepforge-prompt")
    assert (made.state, made.key, made.raw_state) == (State.QUEUED, "sf-1", "JOB_STATE_PENDING")
    sent = server.optimisers.jobs[made.name]
    (pool,) = sent["jobSpec"]["workerPoolSpecs"]
    assert pool["containerSpec"] == {"imageUri": IMAGE, "args": ["--config=gs://bucket/config.json"]}
    assert (pool["machineSpec"]["machineType"], pool["replicaCount"]) == ("n1-standard-4", "1")
    scheduling = sent["jobSpec"]["scheduling"]
    assert (scheduling["timeout"], scheduling["disableRetries"]) == ("3600s", True)
    assert sent["jobSpec"]["serviceAccount"] == CONTAINER.service_account
    assert sent["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"] == CONTAINER.output_uri
    assert sent["encryptionSpec"] == {"kmsKeyName": CONTAINER.kms_key}


@pytest.mark.parametrize("fault", ["lost", "late", "error_after"])
def test_a_job_whose_answer_was_lost_is_found_by_its_label(server: LocalVertex, fault: str) -> None:
    server.fail(fault, path=JOBS)  # type: ignore[arg-type]
    with pytest.raises(ProviderUnavailable):
        jobs(server).submit(CONTAINER, key="sf-1", display_name="d")
    server.settle()
    # The client itself has sent nothing twice.
    assert (server.calls("POST", JOBS), len(server.optimisers.jobs)) == (1, 1)
    found = jobs(server).find("sf-1")
    assert found is not None
    assert found.name == next(iter(server.optimisers.jobs))
    assert jobs(server).find("sf-2") is None


def test_the_whole_list_is_read_where_filters_are_refused_and_two_of_a_key_are_an_error() -> None:
    with LocalVertex(filters=False) as server:
        assert isinstance(server, LocalVertex)
        ours = jobs(server).submit(CONTAINER, key="sf-0", display_name="d")
        # More than a page of others, which are newer.
        others = {f"{JOBS[4:]}/{n}": {"name": f"{JOBS[4:]}/{n}", "labels": {LABEL: f"sf-{n}"}} for n in range(1, 103)}
        server.optimisers.jobs.update(others)
        found = jobs(server).find("sf-0")
        assert found is not None
        assert found.name == ours.name
        jobs(server).submit(CONTAINER, key="sf-0", display_name="d")
        with pytest.raises(IdentityConflict, match="several jobs"):
            jobs(server).find("sf-0")


def test_an_answer_of_another_shape_is_neither_an_empty_list_nor_a_job(server: LocalVertex) -> None:
    server.plan = lambda _: "wrong_schema"
    for call in (
        lambda: jobs(server).find("sf-1"),
        lambda: jobs(server).status(f"{JOBS[4:]}/1"),
        lambda: jobs(server).submit(CONTAINER, key="sf-1", display_name="d"),
    ):
        with pytest.raises(ProviderUnavailable, match="shape"):
            call()


def test_a_job_is_cancelled_and_what_has_ended_stays(server: LocalVertex) -> None:
    made = jobs(server).submit(CONTAINER, key="sf-1", display_name="d")
    server.optimisers.phases[made.name].looks = 10
    server.fail("unknown_state", method="GET", path=f"{JOBS}/.*")
    review = jobs(server).status(made.name)
    assert (review.state, review.state.terminal) == (State.UNKNOWN, False)
    for _ in range(2):
        assert jobs(server).cancel(made.name).state == State.CANCELLED
    assert server.calls("POST", f"{JOBS}/.*:cancel") == 1


def test_a_container_that_fails_says_why(server: LocalVertex) -> None:
    server.objects["gs://bucket/config.json"] = json.dumps({"project": "demo"}).encode()
    made = jobs(server).submit(CONTAINER, key="sf-1", display_name="d")
    for _ in range(4):
        ended = jobs(server).status(made.name)
    assert ended.state == State.FAILED
    assert "lacks" in (ended.error or "")


@pytest.mark.parametrize(("fault", "kind"), [("throttled", Throttled), ("error", ProviderUnavailable)])
def test_faults_are_told_as_everywhere_and_nothing_is_repeated(
    server: LocalVertex, fault: str, kind: type[Exception]
) -> None:
    server.plan = lambda _: fault  # type: ignore[assignment,return-value]
    with pytest.raises(kind):
        jobs(server).submit(CONTAINER, key="sf-1", display_name="d")
    assert len(server.seen) == 1
    server.plan = None
    with pytest.raises(ProviderRefused, match="404"):
        jobs(server).status(f"{JOBS[4:]}/1")
