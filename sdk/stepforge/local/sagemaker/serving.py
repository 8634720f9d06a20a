"""Which process answers for which endpoint or inference component; the processes are in `replicas.py`."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from stepforge.local.sagemaker import components, endpoints, traffic
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.replicas import DeploymentFailed, Replica

logger = logging.getLogger(__name__)
Json = Any
INVOKE_SECONDS = 60.0
"""How long a real-time answer may take: https://docs.aws.amazon.com/sagemaker/latest/APIReference/
API_runtime_InvokeEndpoint.html"""
_LONGEST_ANSWER = 3600.0
"""Of an asynchronous one."""
_LOOK_SECONDS = 0.2
"""Between two looks at the alarms of an update."""


class Unit(NamedTuple):
    """What one replica stands behind: an endpoint with a model, or an inference component."""

    kind: Literal["endpoint", "component"]
    name: str

    @property
    def status(self) -> str:
        return {"endpoint": "EndpointStatus", "component": "InferenceComponentStatus"}[self.kind]

    @property
    def serves(self) -> str:
        """The field that says what it serves; `Next` holds what it is being updated to."""
        return {"endpoint": "EndpointConfigName", "component": "Specification"}[self.kind]


class Stopping(Exception):
    """The server ends: the next one takes the update up again."""


@dataclass
class Newcomer:
    """The new version of an update that is under way, beside the old one."""

    replica: Replica
    share: float
    """Of the requests, that it answers."""
    asked: int = 0
    """Requests to both while this share holds."""

    def is_next(self) -> bool:
        """Whether it answers the next request. Evenly, and not by chance: a tenth is every tenth."""
        self.asked += 1
        return int(self.asked * self.share) > int((self.asked - 1) * self.share)


class Deployments:
    """A replica is replaced only by one that answers, and ends only when it has answered all that it was asked.

    An update with a DeploymentConfig lets both answer for a while, and ends with the old one where an alarm fires.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._replicas: dict[Unit, Replica] = {}
        self._newcomers: dict[Unit, Newcomer] = {}
        self._locks: dict[Unit, threading.Lock] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._idle = threading.Condition(self._lock)

    def start(self) -> None:
        """Take up what the last server left half done. What is in service gets a replica with its first call."""
        shutil.rmtree(self._context.layout.endpoints, ignore_errors=True)
        self._context.layout.endpoints.mkdir(mode=0o700)
        for unit in self._units():
            known = self._context.store.get(unit.kind, unit.name)
            if known is not None and known[unit.status] in ("Creating", "Updating", "RollingBack"):
                self.deploy(unit)

    def _units(self) -> list[Unit]:
        found = [Unit("endpoint", known["EndpointName"]) for known in self._context.store.all("endpoint")]
        return found + [
            Unit("component", known["InferenceComponentName"]) for known in self._context.store.all("component")
        ]

    def stop(self) -> None:
        self._ending.set()
        with self._lock:
            replicas = [*self._replicas.values(), *(one.replica for one in self._newcomers.values())]
            self._replicas, self._newcomers = {}, {}
        for replica in replicas:
            replica.kill()

    def _own_lock(self, unit: Unit) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(unit, threading.Lock())

    def deploy(self, unit: Unit) -> None:
        threading.Thread(target=self._deploy, args=(unit,), name=f"deploy-{unit.name}", daemon=True).start()

    def _deploy(self, unit: Unit) -> None:
        with self._own_lock(unit):
            known = self._context.store.get(unit.kind, unit.name)
            if known is None:
                return
            wanted = known.get("Next", known[unit.serves])
            try:
                replica = self._make(unit, known, wanted)
            except (DeploymentFailed, ServiceError) as error:
                self._failed(unit, known, str(error))
                return
            except Exception as error:
                logger.exception("deployment of %s", unit.name)
                self._failed(unit, known, f"InternalServerError: {error!r}")
                return
            if replica is not None and not self._stays(unit, known, wanted, replica):
                return
            with self._lock:
                self._newcomers.pop(unit, None)
                old = self._replicas.pop(unit, None)
                if replica is not None:
                    self._replicas[unit] = replica
            variant, _ = self._definition(unit, known, wanted)
            changes: Json = {unit.status: "InService", unit.serves: wanted, "Variant": {"VariantName": variant}}
            self._write(unit, **changes, Next=None, NextDeployment=None)
        if old is not None:
            self._retire(old)

    def _stays(self, unit: Unit, known: Json, wanted: Json, replica: Replica) -> bool:
        """Whether the new version may take the old one's place; where it may not, the old one has it again."""
        config = known.get("NextDeployment")
        if "Variant" not in known or config is None:
            return True
        try:
            fired = self._bake(unit, known, wanted, replica, config)
            reason = f"The update was rolled back: the CloudWatch alarm {fired} is in ALARM"
        except Stopping:
            return False
        except Exception as error:
            logger.exception("traffic of %s", unit.name)
            fired, reason = "", f"InternalServerError: {error!r}"
        if fired is None:
            return True
        with self._lock:
            self._newcomers.pop(unit, None)
        self._failed(unit, known, reason)
        self._retire(replica)
        return False

    def _bake(self, unit: Unit, known: Json, wanted: Json, replica: Replica, config: Json) -> str | None:
        """Move the traffic as the update says, and return the alarm that fired meanwhile. Raises Stopping."""
        names = traffic.alarms(config)
        for share, seconds in traffic.steps(config, self._instances(unit, known, wanted)):
            if seconds <= 0:
                continue
            with self._lock:
                self._newcomers[unit] = Newcomer(replica, share)
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                if self._ending.wait(min(_LOOK_SECONDS, left)):
                    raise Stopping
                if (fired := self._fired(names)) is not None:
                    return fired
        return None

    def _fired(self, names: list[str]) -> str | None:
        if not names:
            return None
        found = self._context.cloudwatch.describe_alarms(AlarmNames=names, StateValue="ALARM")["MetricAlarms"]
        return found[0]["AlarmName"] if found else None

    def _instances(self, unit: Unit, known: Json, wanted: Json) -> int:
        if unit.kind == "component":
            copies: int = known["RuntimeConfig"]["DesiredCopyCount"]
            return copies
        variant = endpoints.config(self._context, wanted)["ProductionVariants"][0]
        return int(variant.get("InitialInstanceCount", 1))

    def _definition(self, unit: Unit, known: Json, serves: Json) -> tuple[str, str | None]:
        """The variant and the model; no model for an endpoint that waits for inference components."""
        if unit.kind == "component":
            return known["VariantName"], serves["ModelName"]
        variant = endpoints.config(self._context, serves)["ProductionVariants"][0]
        return variant["VariantName"], variant.get("ModelName")

    def _make(self, unit: Unit, known: Json, serves: Json) -> Replica | None:
        variant, model = self._definition(unit, known, serves)
        return None if model is None else Replica(self._context, unit.name, variant=variant, model_name=model)

    def _failed(self, unit: Unit, known: Json, reason: str) -> None:
        """An update that fails leaves in service what was; a creation that fails has nothing."""
        logger.warning("deployment failed: %s=%s reason=%s", unit.kind, unit.name, reason)
        failed: Json = {unit.status: "Failed", "FailureReason": reason}
        if "Next" in known and "Variant" in known:
            if unit.kind == "endpoint":
                self._write(unit, EndpointStatus="RollingBack", FailureReason=reason)
            self._write(unit, **{**failed, unit.status: "InService"}, Next=None, NextDeployment=None)
        else:
            self._write(unit, **failed, Next=None, NextDeployment=None)

    def _write(self, unit: Unit, **changes: Json) -> None:
        with self._context.store.transaction():
            known = self._context.store.get(unit.kind, unit.name)
            if known is None:
                return
            known = known | changes | {"LastModifiedTime": time.time()}
            known = {key: value for key, value in known.items() if value is not None}
            self._context.store.put(unit.kind, unit.name, known)
            if unit.kind == "endpoint":
                event = "SageMaker Endpoint State Change"
                self._context.post_event(event, known["EndpointArn"], known, "DescribeEndpoint")

    def remove(self, unit: Unit) -> None:
        with self._lock:
            replica = self._replicas.pop(unit, None)
        if replica is not None:
            self._retire(replica)

    def _retire(self, replica: Replica) -> None:
        """Nobody asks it any more; what it was asked it answers before it ends."""

        def drain() -> None:
            with self._idle:
                self._idle.wait_for(lambda: not replica.users or not replica.running, _LONGEST_ANSWER)
            replica.close()

        threading.Thread(target=drain, name="drain", daemon=True).start()

    def invoke(
        self, unit: Unit, body: bytes, headers: dict[str, str], *, seconds: float = INVOKE_SECONDS
    ) -> tuple[str, dict[str, str], bytes]:
        """Variant, headers and body. Raises ValidationError or ModelError as
        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html has them."""
        with self._borrowed(unit) as replica:
            try:
                status, answered, content = replica.request("POST", "/invocations", body, headers, seconds=seconds)
            except ConnectionRefusedError as error:
                # Nobody listens, so nothing was delivered: ask again when the process that has just died is replaced.
                if not replica.ends_within(2):
                    raise _no_answer(error) from error
                with self._borrowed(unit) as other:
                    status, answered, content = self._ask(other, body, headers, seconds)
            except OSError as error:
                if not isinstance(error, TimeoutError):
                    # A process that is about to end must not meet the next call.
                    replica.ends_within(1)
                raise _no_answer(error) from error
        if status >= 400:
            raise _model_error(status, content.decode(errors="replace"))
        return replica.variant, answered, content

    @staticmethod
    def _ask(
        replica: Replica, body: bytes, headers: dict[str, str], seconds: float
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            return replica.request("POST", "/invocations", body, headers, seconds=seconds)
        except OSError as error:
            raise _no_answer(error) from error

    @contextmanager
    def _borrowed(self, unit: Unit) -> Iterator[Replica]:
        """The replica, which does not end before it is given back."""
        replica = self._replica(unit)
        try:
            yield replica
        finally:
            with self._idle:
                replica.users -= 1
                self._idle.notify_all()

    def _replica(self, unit: Unit) -> Replica:
        """The replica with one user more."""
        known = self._document(unit)
        if (replica := self._taken(unit)) is not None:
            return replica
        with self._own_lock(unit):
            if (replica := self._taken(unit)) is not None:
                return replica
            known = self._document(unit)
            try:
                made = self._make(unit, known, known[unit.serves])
            except DeploymentFailed as error:
                raise ServiceError("ServiceUnavailable", str(error), status=503) from error
            assert made is not None
            with self._lock:
                self._replicas[unit] = made
                made.users += 1
        return made

    def _taken(self, unit: Unit) -> Replica | None:
        with self._lock:
            replica, newcomer = self._replicas.get(unit), self._newcomers.get(unit)
            if newcomer is not None and (newcomer.is_next() or replica is None or not replica.running):
                replica = newcomer.replica
            if replica is None or not replica.running:
                return None
            replica.users += 1
            return replica

    def _document(self, unit: Unit) -> Json:
        known = self._context.store.get(unit.kind, unit.name)
        if known is None:
            account = self._context.arn("endpoint", unit.name).split(":")[4]
            what = "Endpoint" if unit.kind == "endpoint" else "Inference Component"
            raise ServiceError("ValidationError", f"{what} {unit.name} of account {account} not found.")
        if "Variant" not in known:
            reason = known.get("FailureReason", "not in service yet")
            raise ServiceError("ValidationError", f"{unit.name} is {known[unit.status]}: {reason}")
        return known

    def unit(self, endpoint: str, component: str | None, *, asynchronous: bool = False) -> Unit:
        """What is to answer. Raises ValidationError where this endpoint is not asked in this way."""
        known = self._document(Unit("endpoint", endpoint))
        config = endpoints.config(self._context, known["EndpointConfigName"])
        if asynchronous != ("AsyncInferenceConfig" in config):
            way = "InvokeEndpoint" if asynchronous else "InvokeEndpointAsync"
            raise ServiceError("ValidationError", f"Endpoint {endpoint} is asked with {way}")
        has_model = "ModelName" in config["ProductionVariants"][0]
        if has_model and component is None:
            return Unit("endpoint", endpoint)
        if has_model or component is None:
            needs = "takes no InferenceComponentName" if has_model else "needs an InferenceComponentName"
            raise ServiceError("ValidationError", f"Endpoint {endpoint} {needs}")
        found = self._context.store.get("component", component)
        if found is None or found["EndpointName"] != endpoint:
            raise ServiceError("ValidationError", f"Inference Component {component} of endpoint {endpoint} not found.")
        return Unit("component", component)

    def after(self, operation: str, request: Json) -> None:
        """What an operation of the API sets going."""
        if operation in ("CreateEndpoint", "UpdateEndpoint"):
            self.deploy(Unit("endpoint", request["EndpointName"]))
        elif operation == "DeleteEndpoint":
            self.remove(Unit("endpoint", request["EndpointName"]))
        elif operation == "CreateInferenceComponent" or (
            operation == "UpdateInferenceComponent" and components.changes_replica(request)
        ):
            self.deploy(Unit("component", request["InferenceComponentName"]))
        elif operation == "DeleteInferenceComponent":
            self.remove(Unit("component", request["InferenceComponentName"]))


def _no_answer(error: OSError) -> ServiceError:
    return _model_error(500, f"the container did not answer: {error}")


def _model_error(status: int, text: str) -> ServiceError:
    who = "client" if status < 500 else "server"
    message = f'Received {who} error ({status}) from primary with message "{text[:2000]}"'
    return ServiceError(
        "ModelError", message, status=424, OriginalStatusCode=status, OriginalMessage=text[:2000], LogStreamArn=""
    )
