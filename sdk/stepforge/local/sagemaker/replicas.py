"""The processes that answer, under the contract of
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html (GET /ping, POST /invocations).
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tarfile
import time
import uuid
from pathlib import Path
from typing import Any

from stepforge.local.sagemaker import endpoints
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.logs import LogStream
from stepforge.local.sagemaker.objects import DownloadFailed
from stepforge.local.sagemaker.processes import Process, base_environment

Json = Any
LOG_GROUP = "/aws/sagemaker/Endpoints"


def ping_seconds() -> float:
    """How long a container may take until it answers /ping."""
    return float(os.environ.get("STEPFORGE_LOCAL_PING_SECONDS", "120"))


class DeploymentFailed(Exception):
    pass


class Replica:
    """One serving process with its model."""

    def __init__(self, context: Context, name: str, *, variant: str, model_name: str) -> None:
        """`name`: of the endpoint or component that it stands behind. Raises DeploymentFailed where it does not answer
        /ping."""
        self.variant, self.users = variant, 0
        model = endpoints.model(context, model_name)
        definition = endpoints.container(context, model.get("PrimaryContainer") or model["Containers"][0])
        self._base = context.layout.endpoints / f"{name}-{uuid.uuid4().hex[:8]}"
        try:
            for folder in ("model", "tmp"):
                (self._base / folder).mkdir(parents=True)
            _fetch_model(context, definition, self._base / "model")
            self.port = _free_port()
            environment = {
                **base_environment(self._base / "tmp", credentials=not model.get("EnableNetworkIsolation", False)),
                **context.variables(definition["Image"]),
                "SAGEMAKER_BASE_DIR": str(self._base),
                "SAGEMAKER_BIND_TO_PORT": str(self.port),
                **definition.get("Environment", {}),
            }
            # Docker appends SageMaker's argument to an image's ENTRYPOINT.
            command = [*context.command(definition["Image"], "serve"), "serve"]
            stream = f"{self.variant}/i-{uuid.uuid4().hex[:17]}"
            self._log = LogStream(context.cloudwatch_logs, f"{LOG_GROUP}/{name}", stream)
            self._process = Process(command, folder=self._base, environment=environment, on_line=self._log.write)
        except (DownloadFailed, ServiceError, OSError, tarfile.TarError) as error:
            shutil.rmtree(self._base, ignore_errors=True)
            raise DeploymentFailed(f"ClientError: {error}") from error
        try:
            self._await_ping()
        except DeploymentFailed:
            self.close()
            raise

    @property
    def running(self) -> bool:
        return self._process.running

    def ends_within(self, seconds: float) -> bool:
        return self._process.wait(seconds) is not None

    def _await_ping(self) -> None:
        deadline = time.monotonic() + ping_seconds()
        while time.monotonic() < deadline:
            if not self.running:
                code = self._process.wait(1)
                raise DeploymentFailed(self._unhealthy(f"its process ended with exit code {code}"))
            try:
                status, _, _ = self.request("GET", "/ping", b"", {}, seconds=2)
            except OSError:
                status = 0
            if status == 200:
                return
            time.sleep(0.05)
        raise DeploymentFailed(self._unhealthy(f"no 200 within {ping_seconds():g} s"))

    def _unhealthy(self, detail: str) -> str:
        tail = " | ".join(self._log.tail[-5:])
        text = (
            f"The primary container for production variant {self.variant} did not pass the ping health check: {detail}"
        )
        return f"{text}. Last lines: {tail}"[:1024]

    def request(
        self, method: str, path: str, body: bytes, headers: dict[str, str], *, seconds: float
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.terminate()
        if self._process.wait(5) is None:
            self._process.kill()
            self._process.wait(5)
        self._log.close()
        shutil.rmtree(self._base, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _fetch_model(context: Context, definition: Json, folder: Path) -> None:
    source = (definition.get("ModelDataSource") or {}).get("S3DataSource")
    uri = definition.get("ModelDataUrl") if source is None else source["S3Uri"]
    if uri is None:
        return
    if source is not None and source["CompressionType"] == "None":
        context.objects.download(uri, folder, required=True)
        return
    packed = folder.with_name("packed")
    context.objects.download(uri, packed, required=True)
    for archive in packed.iterdir():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    shutil.rmtree(packed)
