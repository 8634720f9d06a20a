"""The processes behind endpoints, under the contract of
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html (GET /ping, POST /invocations).
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import socket
import tarfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepforge.local.sagemaker import endpoints
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError, validation
from stepforge.local.sagemaker.logs import LogStream
from stepforge.local.sagemaker.objects import DownloadFailed
from stepforge.local.sagemaker.processes import Process, base_environment

logger = logging.getLogger(__name__)
Json = Any
LOG_GROUP = "/aws/sagemaker/Endpoints"
_INVOKE_SECONDS = 60


def ping_seconds() -> float:
    """How long a container may take until it answers /ping."""
    return float(os.environ.get("STEPFORGE_LOCAL_PING_SECONDS", "120"))


class DeploymentFailed(Exception):
    pass


class Replica:
    """One serving process with its model."""

    def __init__(self, context: Context, endpoint: str, config_name: str) -> None:
        """Raises DeploymentFailed where it does not answer /ping."""
        config = endpoints.config(context, config_name)
        self.variant: str = config["ProductionVariants"][0]["VariantName"]
        model = endpoints.model(context, config["ProductionVariants"][0]["ModelName"])
        definition = endpoints.container(context, model.get("PrimaryContainer") or model["Containers"][0])
        self._base = context.layout.endpoints / f"{endpoint}-{uuid.uuid4().hex[:8]}"
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
            self._log = LogStream(context.cloudwatch_logs, f"{LOG_GROUP}/{endpoint}", stream)
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


class Deployments:
    """Which replica answers for which endpoint. A replica is replaced only by one that answers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._replicas: dict[str, Replica] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Take up what the last server left half done. Endpoints in service get a replica with their first call."""
        shutil.rmtree(self._context.layout.endpoints, ignore_errors=True)
        self._context.layout.endpoints.mkdir(mode=0o700)
        for known in self._context.store.all("endpoint"):
            if known["EndpointStatus"] in ("Creating", "Updating", "RollingBack"):
                self.deploy(known["EndpointName"])

    def stop(self) -> None:
        with self._lock:
            replicas, self._replicas = list(self._replicas.values()), {}
        for replica in replicas:
            replica._process.kill()

    def _own_lock(self, name: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(name, threading.Lock())

    def deploy(self, name: str) -> None:
        threading.Thread(target=self._deploy, args=(name,), name=f"deploy-{name}", daemon=True).start()

    def _deploy(self, name: str) -> None:
        with self._own_lock(name):
            known = endpoints.endpoint(self._context, name)
            wanted = known.get("Next", known["EndpointConfigName"])
            try:
                replica = Replica(self._context, name, wanted)
            except (DeploymentFailed, ServiceError) as error:
                self._failed(name, known, str(error))
                return
            except Exception as error:
                logger.exception("deployment of %s", name)
                self._failed(name, known, f"InternalServerError: {error!r}")
                return
            with self._lock:
                old = self._replicas.pop(name, None)
                self._replicas[name] = replica
            self._write(
                name,
                EndpointStatus="InService",
                EndpointConfigName=wanted,
                Variant={"VariantName": replica.variant},
                Next=None,
            )
        if old is not None:
            old.close()

    def _failed(self, name: str, known: Json, reason: str) -> None:
        """An update that fails leaves the old configuration in service; a creation that fails has none."""
        logger.warning("deployment failed: endpoint=%s reason=%s", name, reason)
        if "Next" in known and "Variant" in known:
            self._write(name, EndpointStatus="RollingBack", FailureReason=reason)
            self._write(name, EndpointStatus="InService", Next=None)
        elif "Next" in known:
            self._write(name, EndpointStatus="Failed", FailureReason=reason, Next=None)
        else:
            self._write(name, EndpointStatus="Failed", FailureReason=reason)

    def _write(self, name: str, **changes: Json) -> None:
        with self._context.store.transaction():
            known = endpoints.endpoint(self._context, name) | changes | {"LastModifiedTime": time.time()}
            known = {key: value for key, value in known.items() if value is not None}
            self._context.store.put("endpoint", name, known)
            arn, kind = known["EndpointArn"], "SageMaker Endpoint State Change"
            self._context.post_event(kind, arn, known, "DescribeEndpoint")

    def remove(self, name: str) -> None:
        with self._lock:
            replica = self._replicas.pop(name, None)
        if replica is not None:
            threading.Thread(target=replica.close, daemon=True).start()

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[Replica, dict[str, str], bytes]:
        """Raises ValidationError or ModelError as
        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html has them."""
        replica = self._replica(name)
        try:
            status, answered, content = self._ask(name, replica, body, headers)
        except OSError as error:
            if not isinstance(error, TimeoutError):
                # A process that is about to end must not meet the next call.
                replica.ends_within(1)
            raise _model_error(replica, 500, f"the container did not answer: {error}") from error
        if status >= 400:
            raise _model_error(replica, status, content.decode(errors="replace"))
        return replica, answered, content

    def _ask(
        self, name: str, replica: Replica, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Where nobody listens nothing was delivered: ask again when the process that has just died is replaced."""
        try:
            return replica.request("POST", "/invocations", body, headers, seconds=_INVOKE_SECONDS)
        except ConnectionRefusedError:
            if not replica.ends_within(2):
                raise
            return self._replica(name).request("POST", "/invocations", body, headers, seconds=_INVOKE_SECONDS)

    def _replica(self, name: str) -> Replica:
        known = self._context.store.get("endpoint", name)
        if known is None:
            raise ServiceError(
                "ValidationError",
                f"Endpoint {name} of account {self._context.arn('endpoint', name).split(':')[4]} not found.",
            )
        if "Variant" not in known:
            raise ServiceError(
                "ValidationError",
                f"Endpoint {name} is {known['EndpointStatus']}: {known.get('FailureReason', 'not in service yet')}",
            )
        with self._lock:
            replica = self._replicas.get(name)
        if replica is not None and replica.running:
            return replica
        with self._own_lock(name):
            with self._lock:
                replica = self._replicas.get(name)
            if replica is None or not replica.running:
                try:
                    replica = Replica(self._context, name, known["EndpointConfigName"])
                except DeploymentFailed as error:
                    raise ServiceError("ServiceUnavailable", str(error), status=503) from error
                with self._lock:
                    self._replicas[name] = replica
        return replica


def _model_error(replica: Replica, status: int, text: str) -> ServiceError:
    who = "client" if status < 500 else "server"
    message = f'Received {who} error ({status}) from primary with message "{text[:2000]}"'
    return ServiceError(
        "ModelError", message, status=424, OriginalStatusCode=status, OriginalMessage=text[:2000], LogStreamArn=""
    )


def check_component(headers: Mapping[str, str]) -> None:
    if headers.get("x-amzn-sagemaker-inference-component"):
        raise validation("InferenceComponentName is not covered here")
