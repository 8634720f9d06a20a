"""Continuous load while versions change: no request is lost, and every answer is of the old or of the new version."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stepforge.contracts.names import package_group
from stepforge.contracts.serving import Fleet

from .conftest import Deployed, serving
from .versions import register_version

DOMAIN = "traffic"
ENDPOINT = package_group(DOMAIN, "local")


@dataclass
class Load:
    """Threads that ask one request after another, each of them answered or in `lost`."""

    answers: list[tuple[float, str]] = field(default_factory=list)
    """When it was asked, and the weights that answered."""
    lost: list[str] = field(default_factory=list)

    def since(self, moment: float) -> set[str]:
        return {sha256 for asked, sha256 in self.answers if asked >= moment}


@contextmanager
def load(deployed: Deployed, *, threads: int = 4) -> Iterator[Load]:
    found, ending = Load(), threading.Event()
    # Tried again, a lost request would not be seen.
    runtime = deployed.aws.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))

    def ask() -> None:
        while not ending.is_set():
            asked = time.monotonic()
            try:
                answer = runtime.invoke_endpoint(EndpointName=ENDPOINT, Body=json.dumps({"records": [{"prompt": "p"}]}))
                found.answers.append((asked, json.loads(answer["Body"].read())["model_sha256"]))
            except (ClientError, BotoCoreError, ValueError) as error:
                found.lost.append(repr(error))

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield found
        # What answers when all is done is seen under load too.
        time.sleep(0.3)
    finally:
        ending.set()
        for thread in running:
            thread.join(30)


def staged(deployed: Deployed, package: str) -> tuple[str, str]:
    found = deployed.package(package)["ModelLifeCycle"]
    return found["Stage"], found["StageStatus"]


@pytest.fixture(scope="module")
def old(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version that serves."""
    folder = tmp_path_factory.mktemp("old")
    package, _ = register_version(deployed, folder, DOMAIN, "111111111111", seconds=0.1)
    assert deployed.approve(package)["status"] == "SUCCEEDED"
    return package


def sha256_of(deployed: Deployed, package: str) -> str:
    return deployed.package(package)["CustomerMetadataProperties"]["model_sha256"]


def test_a_version_whose_alarm_fires_behind_the_canary_goes_back_and_no_request_is_lost(
    deployed: Deployed, tmp_path: Path, old: str
) -> None:
    sagemaker, cloudwatch = deployed.aws.client("sagemaker"), deployed.aws.client("cloudwatch")
    new, new_sha256 = register_version(deployed, tmp_path, DOMAIN, "444444444444", seconds=0.05)

    def alarm(state: str) -> None:
        cloudwatch.set_alarm_state(AlarmName=f"{ENDPOINT}-5xx", StateValue=state, StateReason="it answers with errors")

    def fire(found: Load) -> None:
        """As soon as the canary has answered, after its smoke test."""
        deadline = time.monotonic() + 30
        while new_sha256 not in found.since(0) and time.monotonic() < deadline:
            time.sleep(0.02)
        alarm("ALARM")

    two = Fleet(instance_type="ml.m5.large", instances=2)
    with serving(deployed, two, bake_seconds=2), load(deployed) as found:
        firing = threading.Thread(target=fire, args=(found,))
        firing.start()
        ended = deployed.approve(new)
        firing.join()
        back = time.monotonic()
    alarm("OK")
    assert (ended["status"], ended["error"]) == ("FAILED", "EndpointFailed")
    described = sagemaker.describe_endpoint(EndpointName=ENDPOINT)
    assert described["EndpointStatus"] == "InService"
    routing = described["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing["CanarySize"]) == ("CANARY", {"Type": "INSTANCE_COUNT", "Value": 1})
    # Why it went back is said to who reads the endpoint, the execution or the package.
    for text in (described["FailureReason"], ended["cause"], deployed.package(new)["ApprovalDescription"]):
        assert f"the CloudWatch alarm {ENDPOINT}-5xx is in ALARM" in text
    assert found.lost == []
    assert (found.since(0), found.since(back)) == ({sha256_of(deployed, old), new_sha256}, {sha256_of(deployed, old)})
    assert (staged(deployed, old), staged(deployed, new)) == (("Production", "Serving"), ("Development", "Failed"))
    assert deployed.package(new)["CustomerMetadataProperties"]["promotion"] == "failed"


def test_no_request_is_lost_while_versions_change_and_a_bad_one_is_never_seen(
    deployed: Deployed, tmp_path: Path, old: str
) -> None:
    old_sha256 = sha256_of(deployed, old)
    new, new_sha256 = register_version(deployed, tmp_path, DOMAIN, "222222222222", seconds=0.1)
    liar, _ = register_version(deployed, tmp_path, DOMAIN, "333333333333", liar=True, seconds=0.1)

    with load(deployed) as good:
        ended = deployed.approve(new)
        assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
        switched = time.monotonic()
    assert (staged(deployed, old), staged(deployed, new)) == (("Archived", "Superseded"), ("Production", "Serving"))
    assert good.lost == []
    assert good.since(0) == {old_sha256, new_sha256}
    assert good.since(switched) == {new_sha256}

    with load(deployed) as bad:
        ended = deployed.approve(liar)
        assert (ended["status"], ended["error"]) == ("FAILED", "SmokeFailed")
    assert (staged(deployed, new), staged(deployed, liar)) == (("Production", "Serving"), ("Development", "Failed"))
    assert bad.lost == []
    assert bad.since(0) == {new_sha256}
    assert min(len(good.answers), len(bad.answers)) > 20
