"""Where the local AWS keeps what it has: one folder that only the user can enter.

Base is `$STEPFORGE_HOME`, else `~/.local/share/stepforge`; everything of the server lies in its `local/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

REGION = "us-east-1"
ACCOUNT_ID = "000000000000"


@dataclass(frozen=True)
class AccessKey:
    id: str
    secret: str
    token: str | None = None
    """Of a session that STS began; None for the key of the local AWS itself."""


@dataclass(frozen=True)
class Layout:
    """The files of one local AWS."""

    root: Path

    @classmethod
    def of(cls, base: Path) -> Layout:
        return cls(base / "local")

    @property
    def key_file(self) -> Path:
        return self.root / "key.json"

    @property
    def server_file(self) -> Path:
        return self.root / "server.json"

    @property
    def images_file(self) -> Path:
        return self.root / "images.json"

    @property
    def capacity_file(self) -> Path:
        return self.root / "capacity.json"

    @property
    def log_file(self) -> Path:
        return self.root / "server.log"

    @property
    def start_lock(self) -> Path:
        """Beside the folder: who waits for it must not wait for a file that a reset has removed."""
        return self.root.with_name("local.lock")

    @property
    def alive_lock(self) -> Path:
        """Held by the server for as long as it lives: the kernel lets go of it whatever kills the server."""
        return self.root / "alive.lock"

    @property
    def database(self) -> Path:
        return self.root / "sagemaker.db"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints"

    @property
    def backend_state(self) -> Path:
        return self.root / "state"

    @property
    def objects(self) -> Path:
        return self.root / "s3"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def create(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.jobs, self.endpoints, self.backend_state, self.objects, self.temporary):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.root.chmod(0o700)

    def access_key(self) -> AccessKey:
        """The key of this local AWS, made at random on first use. Call with the start lock held."""
        if self.key_file.exists():
            plain = json.loads(self.key_file.read_text())
            return AccessKey(plain["access_key_id"], plain["secret_access_key"])
        key = AccessKey("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
        write_private(self.key_file, {"access_key_id": key.id, "secret_access_key": key.secret})
        return key

    def server(self) -> dict[str, Any] | None:
        """What the running server wrote once it was ready; None where there is nothing."""
        try:
            return json.loads(self.server_file.read_text())
        except FileNotFoundError:
            return None

    def alive(self) -> bool:
        """Whether a server process lives, by the lock that it holds."""
        try:
            stream = self.alive_lock.open("rb")
        except FileNotFoundError:
            return False
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


def write_private(path: Path, value: Any) -> None:
    """Write JSON by rename, readable by the user alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(value, stream, indent=1)
    temporary.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Hold an exclusive lock on `path`, waiting for it."""
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream
