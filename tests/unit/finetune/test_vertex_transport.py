"""Where requests is the transport (Cloud Storage, lists of jobs): lost connections and 503, below the real clients."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
import responses

from stepforge.errors import ProviderUnavailable
from stepforge.finetune import Prepared
from stepforge.testing.providers import LocalVertex
from tests.unit.finetune.conftest import Clock
from tests.unit.finetune.test_providers import start, vertex_case

UPLOAD = re.compile(r".*/upload/storage/v1/b/bucket/o.*")
JOBS = re.compile(r".*/tuningJobs\?.*")


def test_an_upload_survives_a_lost_connection_and_a_503_and_is_launched_once(tmp_path: Path, clock: Clock) -> None:
    with LocalVertex(delay_seconds=0.02) as server, responses.RequestsMock() as mocked:
        assert isinstance(server, LocalVertex)
        mocked.add_passthru(server.url)
        mocked.post(UPLOAD, body=requests.ConnectionError("reset by peer"))
        mocked.post(UPLOAD, status=503)
        mocked.add(responses.PassthroughResponse("POST", UPLOAD))
        done = start(vertex_case(server, tmp_path), clock)
        assert (done.job is not None, len(server.jobs), len(server.objects), len(clock.slept)) == (True, 1, 1, 2)


@pytest.mark.parametrize("fault", [requests.ConnectionError("sk-planted"), requests.ReadTimeout("sk-planted"), 503])
def test_what_was_not_answered_is_not_known_and_says_nothing_of_the_transport(
    fault: Exception | int, tmp_path: Path
) -> None:
    with LocalVertex(delay_seconds=0.02) as server, responses.RequestsMock() as mocked:
        case = vertex_case(server, tmp_path)
        for method, url in (("POST", UPLOAD), ("GET", JOBS)):
            about = {"status": fault, "body": "sk-planted"} if isinstance(fault, int) else {"body": fault}
            mocked.add(method, url, **about)  # type: ignore[arg-type]
        for call in (
            lambda: case.provider.prepare(case.spec, tmp_path),
            lambda: case.provider.find("sf-none", Prepared(training="t")),
        ):
            with pytest.raises(ProviderUnavailable, match="Whether it was done is not known") as said:
                call()
            assert "sk-planted" not in str(said.value)
        assert server.seen == []
