"""Processes that stand for containers: started under a supervisor, so that none outlives the server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

from stepforge.contracts.tools import VLLM_PYTHON

_SUPERVISOR = Path(__file__).with_name("supervise.py")
KILLED = -9
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", VLLM_PYTHON)


def base_environment(temporary: Path, *, credentials: bool) -> dict[str, str]:
    """What every container gets: little of the server's own, and its credentials only where asked for."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if credentials:
        kept |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    regions = {"AWS_REGION": os.environ["AWS_REGION"], "AWS_DEFAULT_REGION": os.environ["AWS_REGION"]}
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }
    return {**kept, **regions, **quiet, "TMPDIR": str(temporary)}


class Process:
    """One command. `on_line` gets each line of its output, without the line end, from a thread of its own."""

    def __init__(
        self, command: list[str], *, folder: Path, environment: dict[str, str], on_line: Callable[[str], None]
    ) -> None:
        self._lock = Lock()
        self._code: int | None = None
        ours, theirs = socket.socketpair()
        self._orders = ours
        with theirs:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(theirs.fileno()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._reader = Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._supervisor.stdout is not None
        for line in self._supervisor.stdout:
            on_line(line.decode(errors="replace").rstrip("\r\n"))

    def terminate(self) -> None:
        self._order(b"T")

    def kill(self) -> None:
        self._order(b"K")

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):
            self._orders.sendall(order)

    @property
    def running(self) -> bool:
        return self._supervisor.poll() is None

    def wait(self, seconds: float) -> int | None:
        """The exit code as subprocess counts it, after all output was read; None where it still runs."""
        try:
            self._supervisor.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with self._lock:
            if self._code is None:
                self._reader.join(5)
                with self._orders:
                    answer = self._orders.recv(16)
                # A supervisor that could not answer was killed itself, and the command with it.
                self._code = int(answer) if answer else KILLED
            return self._code
