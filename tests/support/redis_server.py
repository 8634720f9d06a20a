"""A real Redis server on a socket in a folder of its own, which tests kill, stop and start again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

BINARY = shutil.which("redis-server")
WITHOUT = "redis-server is not installed: `apt-get install redis-server` (as root), or your system's package of Redis"


class RedisServer:
    def __init__(self) -> None:
        # Not pytest's folder: the path of a socket has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="stepforge-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder}/socket"

    def start(self) -> None:
        assert BINARY is not None, WITHOUT
        socket = self._folder / "socket"
        socket.unlink(missing_ok=True)
        settings = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([BINARY, *settings], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert self._process.poll() is None, f"redis-server ended with {self._process.returncode}"
            assert time.monotonic() < deadline, "redis-server did not start within 10 s"
            time.sleep(0.01)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """It accepts connections and answers nothing, as a host that swaps does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
