"""The hosts of one job tell the first what they made. SageMaker lets them talk in network isolation too.

"No inbound or outbound network calls can be made, except for calls between peers within a training cluster":
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html, EnableNetworkIsolation. What they
say is encrypted by SageMaker where EnableInterContainerTrafficEncryption is on. For training see training/ranks.py.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from stepforge.errors import InvalidInput
from stepforge_jobs.launch import Plan, meeting_of

PATIENCE_SECONDS = 4 * 3_600.0
"""How long the hosts wait for each other. A dead one is noticed sooner, by SageMaker, which then ends the job."""
LONGEST = 1 << 30
"""Bytes of one message."""
_ANSWER = b"taken"


def gather(plan: Plan, job: str, mine: Any, *, patience: float = PATIENCE_SECONDS) -> list[Any] | None:
    """What every host gave, in the order of the hosts, at the first one; None at the others, once the first has theirs.

    `job` is the identity of the spec, the same on all. What is given travels as JSON. Raises InvalidInput where a
    message is another job's, TimeoutError where a host is not heard of in time.
    """
    deadline = time.monotonic() + patience
    if plan.host:
        _tell(plan, {"job": job, "host": plan.host, "value": mine}, deadline)
        return None
    found: dict[int, Any] = {0: mine}
    address, port = meeting_of(plan)
    # A host's own name may stand for its loopback, where no other host reaches it.
    with socket.create_server(("" if address == plan.hosts[0] else address, port)) as server:
        while len(found) < len(plan.hosts):
            server.settimeout(_left(plan, deadline, missing=[n for n, _ in enumerate(plan.hosts) if n not in found]))
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                try:
                    said = json.loads(_read(connection))
                except OSError:
                    # Cut off in the middle: that host tries again.
                    continue
                if said["job"] != job or not 0 < said["host"] < len(plan.hosts):
                    raise InvalidInput(
                        f"a host says that it works on {said['job']!r} as number {said['host']}: not ours"
                    )
                found[said["host"]] = said["value"]
                connection.sendall(_ANSWER)
    return [found[number] for number in range(len(plan.hosts))]


def _tell(plan: Plan, message: Any, deadline: float) -> None:
    data = json.dumps(message).encode()
    while True:
        try:
            with socket.create_connection(meeting_of(plan), timeout=60) as connection:
                connection.sendall(len(data).to_bytes(8, "big") + data)
                if _exactly(connection, len(_ANSWER)) == _ANSWER:
                    return
        except OSError:
            # The first host listens when its own part is done, and then takes one connection after the other.
            time.sleep(min(1.0, _left(plan, deadline, missing=[0])))


def _left(plan: Plan, deadline: float, *, missing: list[int]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"nothing was heard of {', '.join(plan.hosts[n] for n in missing)}: look at their logs")
    return left


def _read(connection: socket.socket) -> bytes:
    length = int.from_bytes(_exactly(connection, 8), "big")
    if length > LONGEST:
        raise InvalidInput(f"a host announces a message of {length} bytes: {LONGEST} at most")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the other side hung up in the middle of a message")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
