"""The process in which a user's verifier runs: `python -m stepforge_jobs.domains.worker FD PARENT`.

One JSON line in, one out, over the socket FD. The first line says what to import. What the verifier prints goes
nowhere near that socket; whatever it does else, the parent's hard kill ends it. See `judging`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge.errors import InvalidInput
from stepforge_jobs.domains import load_object
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.domains.user import RecordsDomain, load_function, refused

GROWTH_PART = 4
"""A worker whose resident memory has grown by this part of its limit asks to be replaced."""
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serve calls until the parent closes the socket."""
    descriptor, parent = int(arguments[0]), int(arguments[1])
    _end_with(parent)
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb") as stream:
        _serve(stream)
    return 0


def _serve(stream: Any) -> None:
    begin = json.loads(stream.readline())
    for limit, most in ((resource.RLIMIT_AS, begin["memory_bytes"]), (resource.RLIMIT_CORE, 0)):
        # Not every system knows every limit, and a lower hard one may stand already.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    most_growth = begin["memory_bytes"] // GROWTH_PART
    try:
        judge = _load(begin)
    except BaseException as error:  # noqa: BLE001 - foreign code is imported: the parent reports it
        _answer(
            stream, {"error": str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"}
        )
        return
    _answer(stream, {"ready": True})
    at_start = _resident()
    for line in stream:
        call = json.loads(line)
        record = Record.model_validate(call["record"])
        # A verifier that draws numbers says the same of the same completion, whichever worker is asked.
        random.seed(f"{record.id}\0{call['completion']}")
        try:
            found: dict[str, Any] = {"verdict": judge(record, call["completion"]).model_dump(mode="json")}
        except ValueError as error:
            found = {"error": str(error)}
        except BaseException as error:  # noqa: BLE001 - foreign code; nobody but it interrupts this process
            found = {"verdict": refused(error).model_dump(mode="json")}
        _answer(stream, {"call": call["call"], "replace": _resident() - at_start > most_growth, **found})


def _load(begin: dict[str, Any]) -> Any:
    """The function of (record, completion) that the first line names."""
    sys.path.insert(0, begin["folder"])
    if begin["domain"] is not None:
        domain: Domain = load_object(begin["domain"], Domain)

        def judge(record: Record, completion: str) -> Verdict:
            try:
                return domain.verify(record, completion)
            except ValueError:
                # By the protocol of Domain: the record cannot be read.
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: a failed rollout is data
                return refused(error)

        return judge
    return RecordsDomain(begin["name"], load_function(begin["verifier"]), version=begin["version"]).verify


def _answer(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _resident() -> int:
    """Resident memory in bytes; where the system tells no more, the largest so far."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        # Not ru_maxrss: on Linux that begins with what the parent had when it forked.
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _end_with(parent: int) -> None:
    """End when the parent does, also in the middle of a call that never looks up. Linux alone; elsewhere at its end."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
