"""Continuous load while versions change: no request is lost, and every answer is of the old or of the new version."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stepforge.contracts.names import package_group

from .conftest import Deployed
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


def test_no_request_is_lost_while_versions_change_and_a_bad_one_is_never_seen(
    deployed: Deployed, tmp_path: Path
) -> None:
    old, old_sha256 = register_version(deployed, tmp_path, DOMAIN, "111111111111", seconds=0.1)
    new, new_sha256 = register_version(deployed, tmp_path, DOMAIN, "222222222222", seconds=0.1)
    liar, _ = register_version(deployed, tmp_path, DOMAIN, "333333333333", liar=True, seconds=0.1)
    assert deployed.approve(old)["status"] == "SUCCEEDED"

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
