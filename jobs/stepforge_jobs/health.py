"""What `docker ps` shows: `python -m stepforge_jobs.health job|serve`. SageMaker itself does not look at it.

A job is healthy while its heartbeat is fresh, a server while /ping answers with 200. Exit code 0 or 1, and a sentence.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from stepforge.errors import InvalidInput
from stepforge_jobs.heartbeat import INTERVAL_SECONDS, NAME
from stepforge_jobs.job import base_dir

MISSED = 6
"""Heartbeats that may be missing in a row."""


def job_health(base: Path, *, now: float) -> tuple[bool, str]:
    """Whether the heartbeat below `base` is fresh at `now`, in seconds of the epoch."""
    path = base / "output" / NAME
    try:
        beat = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return False, f"{path} is no heartbeat yet"
    age = now - float(beat["time"])
    return age <= MISSED * INTERVAL_SECONDS, f"the last heartbeat is {age:.0f} s old"


def server_health(port: int) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200, f"/ping answered {answer.status}"
    except OSError as error:
        return False, f"/ping did not answer: {error}"


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["job"]:
        healthy, said = job_health(base_dir(), now=time.time())
    elif list(arguments) == ["serve"]:
        healthy, said = server_health(int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")))
    else:
        raise InvalidInput(f"arguments {list(arguments)!r}: give 'job' or 'serve'")
    print(said)
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
