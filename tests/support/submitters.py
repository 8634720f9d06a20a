"""Work of the processes that submit at once; importable without pytest, so that a fork server can run it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
import botocore.session
from botocore.loaders import create_loader

from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.pipelines import PipelineSpec
from stepforge.patience import Patience
from stepforge.pipelines import Pipelines
from stepforge.submitting.submission import submit

_AT_ONCE = 25

# The fork server imports this once: eight processes that each read the service models took ten seconds on two cores.
_LOADER = create_loader()
for _service in ("s3", "sagemaker", "stepfunctions", "ssm"):
    _LOADER.load_service_model(_service, "service-2")


@dataclass(frozen=True)
class Server:
    """How to reach a local AWS, perhaps through a proxy. Travels to another process."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str

    def connection(self, patience: Patience | None = None) -> Connection:
        session = _session(self.access_key_id, self.secret_access_key, self.region)
        return Connection("local", session, endpoint_url=self.endpoint_url, patience=patience)


@lru_cache
def _session(key: str, secret: str, region: str) -> boto3.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", _LOADER)
    return boto3.Session(key, secret, region_name=region, botocore_session=session)


def many(server: Server, document: str, count: int) -> Counter[tuple[str, str]]:
    """Submit a job or start a pipeline `count` times at once; (name, what was done) to how often."""
    connection = server.connection(Patience(budget_seconds=60))
    for service in ("s3", "sagemaker", "stepfunctions"):
        connection.client(service)
    _ = connection.environment
    ready = threading.Barrier(min(count, _AT_ONCE))

    def one(number: int) -> tuple[str, str]:
        if number < ready.parties:
            ready.wait()
        if '"stages"' in document:
            run = Pipelines(connection).start(PipelineSpec.model_validate_json(document))
            return run.name, "run"
        found = submit(connection, JobSpec.model_validate_json(document))
        return found.name, found.action

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return Counter(pool.map(one, range(count)))


def submit_once(server: Server, document: str) -> Any:
    """One submission, without a second attempt at anything."""
    return submit(server.connection(Patience(attempts=1)), JobSpec.model_validate_json(document))
