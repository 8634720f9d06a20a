"""Start, stop and look at the local AWS. The server is always a process of its own."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stepforge
from stepforge.errors import EnvironmentUnavailable
from stepforge.installation.home import home
from stepforge.local.state import ACCOUNT_ID, REGION, Layout, locked
from stepforge.logs import readable

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class LocalAws:
    """A local AWS that is up.

    >>> aws = LocalAws("http://127.0.0.1:4600", "AKIA0", "secret", Path("/nowhere"))
    >>> aws.region
    'us-east-1'
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    home: Path
    region: str = REGION
    account_id: str = ACCOUNT_ID

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client of this local AWS, whatever the caller's own profile and region are."""
        return _session(self).client(service, endpoint_url=self.endpoint_url, **options)


@functools.lru_cache(maxsize=8)
def _session(aws: LocalAws) -> Any:
    """One for all clients: it keeps the service models that each would read anew."""
    import boto3

    return boto3.session.Session(aws.access_key_id, aws.secret_access_key, region_name=aws.region)


@dataclass(frozen=True)
class LocalStatus:
    running: bool
    home: Path
    endpoint_url: str | None = None
    pid: int | None = None
    version: str | None = None
    started: float | None = None
    """Seconds since the epoch."""


def ensure_up() -> LocalAws:
    """The local AWS of `$STEPFORGE_HOME`, started where it does not run. Costs well under a millisecond where it does.

    Of several processes that call at once, one starts it and the others wait.
    Raises EnvironmentUnavailable with the end of the server's log where it does not come up, and where it runs the code
    of another checkout or environment: its jobs would not be what their digests say.
    """
    layout = Layout.of(home())
    up = _reach(layout) or _start(layout)
    theirs = (layout.server() or {}).get("runs", [])
    if theirs != (ours := code_folders()):
        raise EnvironmentUnavailable(
            f"the local AWS in {layout.root} runs the code of {', '.join(theirs) or 'an older stepforge'}, and this is "
            f"{', '.join(ours)}: stop it with `stepforge local down`, or set STEPFORGE_HOME to a folder of its own"
        )
    return up


def _start(layout: Layout) -> LocalAws:
    layout.root.parent.mkdir(parents=True, exist_ok=True)
    with locked(layout.start_lock):
        layout.create()
        if (up := _wait(layout, seconds=_START_SECONDS if layout.alive() else 0)) is not None:
            return up
        layout.access_key()
        process = _spawn(layout)
        if (up := _wait(layout, seconds=_START_SECONDS, process=process)) is not None:
            return up
    tail = "\n".join(_tail(layout.log_file, 15))
    raise EnvironmentUnavailable(
        f"the local AWS did not come up within {_START_SECONDS:.0f} s. End of {layout.log_file}:\n{tail}"
    )


def reach() -> LocalAws | None:
    """The local AWS where it runs, whatever code it runs; None where it does not. Starts nothing."""
    return _reach(Layout.of(home()))


def status() -> LocalStatus:
    base = home()
    layout = Layout.of(base)
    server = layout.server()
    if server is None or _reach(layout) is None:
        return LocalStatus(running=False, home=base)
    return LocalStatus(True, base, _url(server), server["pid"], server["version"], server["started"])


def down() -> bool:
    """Stop the server, its jobs and endpoints; their state stays. Returns whether one ran."""
    layout = Layout.of(home())
    if not layout.root.exists():
        return False
    with locked(layout.start_lock):
        return _stop(layout)


def reset() -> None:
    """Stop the server and delete everything that it kept: objects, jobs, packages, executions, its key."""
    layout = Layout.of(home())
    if not layout.root.exists():
        return
    with locked(layout.start_lock):
        _stop(layout)
        shutil.rmtree(layout.root)


def logs(*, follow: bool = False, lines: int = 100) -> Iterator[str]:
    """The last lines of the server's log, and those to come where `follow`."""
    path = Layout.of(home()).log_file
    if not path.exists():
        return
    yield from _tail(path, lines)
    if follow:
        yield from _follow(path)


def _follow(path: Path) -> Iterator[str]:
    """Lines to come, through rotations of the file."""
    seek = os.SEEK_END
    while True:
        with path.open(errors="replace") as stream:
            stream.seek(0, seek)
            seek, rest, replaced = os.SEEK_SET, "", False
            while True:
                rest += stream.readline()
                if rest.endswith("\n"):
                    yield readable(rest.rstrip("\n"))
                    rest = ""
                elif replaced:
                    break
                else:
                    time.sleep(0.2)
                    # Looked at before the last lines of the old file are read: they come first.
                    replaced = not path.exists() or path.stat().st_ino != os.fstat(stream.fileno()).st_ino
        while not path.exists():
            time.sleep(0.2)


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 1_000 * lines))
        return [readable(line) for line in stream.read().decode(errors="replace").splitlines()[-lines:]]


def _url(server: dict[str, Any]) -> str:
    return f"http://127.0.0.1:{server['port']}"


def _reach(layout: Layout) -> LocalAws | None:
    """Alive by its lock, ready by its file, and it accepts a connection."""
    if not layout.alive() or (server := layout.server()) is None:
        return None
    try:
        socket.create_connection(("127.0.0.1", server["port"]), timeout=1).close()
    except OSError:
        return None
    key = layout.access_key()
    return LocalAws(_url(server), key.id, key.secret, layout.root.parent)


def _wait(layout: Layout, *, seconds: float, process: subprocess.Popen[bytes] | None = None) -> LocalAws | None:
    deadline = time.monotonic() + seconds
    while True:
        if (up := _reach(layout)) is not None:
            return up
        ended = not layout.alive() if process is None else process.poll() is not None
        if ended or time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def _spawn(layout: Layout) -> subprocess.Popen[bytes]:
    kept = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
    environment = {name: value for name, value in os.environ.items() if name in kept or name.startswith("STEPFORGE_")}
    environment |= {"STEPFORGE_HOME": str(layout.root.parent), "TMPDIR": str(layout.temporary), "PYTHONUNBUFFERED": "1"}
    if found := python_path():
        environment["PYTHONPATH"] = os.pathsep.join(found)
    with layout.log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stepforge.local.server"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.root,
            env=environment,
            start_new_session=True,
        )


@functools.cache
def code_folders() -> list[str]:
    """What a server and its jobs run: the environment of Python, and where stepforge and its jobs are imported from."""
    return [sys.prefix, *dict.fromkeys(str(folder.resolve()) for folder in _own_folders())]


def _own_folders() -> list[Path]:
    jobs = importlib.util.find_spec("stepforge_jobs")
    found = list(jobs.submodule_search_locations or []) if jobs is not None else []
    return [Path(stepforge.__file__).parent.parent, *(Path(folder).parent for folder in found[:1])]


def python_path() -> list[str]:
    """The folders that jobs, handlers and the server need to import this very stepforge and its jobs.

    Installed packages are left out: an entry for site-packages would come before the standard library.
    """
    folders = _own_folders()
    folders += [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = {Path(folder).resolve() for folder in [*site.getsitepackages(), site.getusersitepackages()]}
    return list(dict.fromkeys(str(folder.absolute()) for folder in folders if folder.resolve() not in installed))


def _stop(layout: Layout) -> bool:
    server = layout.server()
    if server is None or not layout.alive():
        return False
    deadline = time.monotonic() + _STOP_SECONDS
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(server["pid"], sign)
        except ProcessLookupError:
            return True
        while time.monotonic() < deadline:
            if not layout.alive():
                return True
            time.sleep(0.02)
        deadline = time.monotonic() + 5
    raise EnvironmentUnavailable(f"the local AWS, process {server['pid']}, does not stop; see {layout.log_file}")
