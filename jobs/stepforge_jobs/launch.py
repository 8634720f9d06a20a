"""One process for each GPU: what `main` becomes where a training job has several, on one host or on many.

SageMaker starts one process a host, with the hosts' names in input/config/resourceconfig.json. That process starts the
ranks, each `main` again with torch's usual variables, forwards SIGTERM, and ends as they end. torchrun is not used: it
kills ranks 30 s after SIGTERM, where a checkpoint has 120 s, and a restart here is a new attempt from the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from stepforge.errors import InvalidInput

PROCESSES = "STEPFORGE_PROCESSES"
"""Environment variable: ranks on each host, in place of one a GPU."""
PORT = 29_500
"""Where the ranks of several hosts meet, at the first host. On a single host it is a free one."""
MEETING = "STEPFORGE_MEETING"
"""Environment variable: `address:port` where several hosts meet instead, for hosts whose names do not resolve."""
INTERRUPTED = 143
MOURNING_SECONDS = 10.0
"""How long the other ranks may go on after one has failed."""


@dataclass(frozen=True)
class Plan:
    """Where this host's ranks stand among all."""

    here: int
    host: int
    hosts: tuple[str, ...]
    interface: str | None

    @property
    def world(self) -> int:
        return self.here * len(self.hosts)


def plan_of(base: Path) -> Plan:
    """By SageMaker's description of the cluster and this host's GPUs. Raises InvalidInput for a malformed one."""
    path = base / "input" / "config" / "resourceconfig.json"
    if not path.is_file():
        return Plan(here=_here(), host=0, hosts=("localhost",), interface=None)
    try:
        config = json.loads(path.read_bytes())
        hosts = tuple(sorted(config["hosts"]))
        return Plan(_here(), hosts.index(config["current_host"]), hosts, config.get("network_interface_name"))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} must name `hosts` and, among them, `current_host`: {error!r}") from error


def meeting_of(plan: Plan) -> tuple[str, int]:
    """Address and port at which the processes of a job meet. Raises InvalidInput for a malformed STEPFORGE_MEETING."""
    if len(plan.hosts) == 1:
        return "127.0.0.1", free_port()
    given = os.environ.get(MEETING)
    if given is None:
        return plan.hosts[0], PORT
    address, _, port = given.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidInput(f"{MEETING}={given!r} must be an address and a port, such as '127.0.0.1:{PORT}'")
    return address, int(port)


def is_rank() -> bool:
    """Whether a launcher, this one or another, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(plan: Plan, command: Sequence[str]) -> int:
    """Run a command once for each rank of this host; the exit code of the first that failed, or 143, or 0."""
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        meeting = meeting_of(plan)
        for local in range(plan.here):
            processes.append(subprocess.Popen(list(command), env=os.environ | environment(plan, local, meeting)))
        return _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        signal.signal(signal.SIGTERM, previous)


def environment(plan: Plan, local: int, meeting: tuple[str, int]) -> dict[str, str]:
    """What torch and accelerate read in rank `local` of this host."""
    address, port = meeting
    found = {
        "RANK": str(plan.host * plan.here + local),
        "WORLD_SIZE": str(plan.world),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(plan.here),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // plan.here))),
    }
    if len(plan.hosts) > 1 and plan.interface:
        found |= {"NCCL_SOCKET_IFNAME": plan.interface, "GLOO_SOCKET_IFNAME": plan.interface}
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _here() -> int:
    given = os.environ.get(PROCESSES)
    if given is not None:
        if not given.isdigit() or int(given) < 1:
            raise InvalidInput(f"{PROCESSES}={given!r} must be a number of processes, 1 or more")
        return int(given)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip()]))
    # Counted without torch, whose import takes seconds that each rank then spends again.
    return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Until all have ended. When one fails, the others wait for it in vain: they are ended too."""
    deadline, first = float("inf"), 0
    while None in (codes := [process.poll() for process in processes]):
        # A rank that has stopped for SIGTERM leaves rank 0 the time to write its checkpoint.
        failed = [code for code in codes if code not in (None, 0, INTERRUPTED)]
        if failed and not first:
            first, deadline = failed[0] or 0, time.monotonic() + MOURNING_SECONDS
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    code = first or next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code
