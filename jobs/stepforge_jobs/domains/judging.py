"""Who judges completions: a domain that ships in this process, a user's code in processes that a hard kill ends.

A user's verifier may hang in C, end its process, leak memory or print. It runs in workers: each call has a limit of
wall-clock time, after which the worker's process group gets SIGKILL and another takes its place; the verdict is then a
refusal whose reason begins with `timeout` or `crash`. Calls are dealt to the workers by their place, never by speed.
Not covered: a sandbox. The user's own code may read and write what the job may.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from stepforge.contracts.base import first_problem
from stepforge.contracts.records import Record
from stepforge.contracts.rewards import Verdict
from stepforge.contracts.user_records import plugin_version
from stepforge.errors import InvalidInput
from stepforge_jobs.domains.base import Domain
from stepforge_jobs.domains.user import RAISED, domain_of
from stepforge_jobs.job import Job

VERIFIER_SECONDS = 10.0
"""Wall-clock time of one call."""
START_SECONDS = 120.0
"""Of importing the user's code."""
MEMORY_BYTES = 4 << 30
"""Address space of a worker: what asks for more gets MemoryError, and the machine stays usable."""
MOST_REPLY_BYTES = 8 << 20
MOST_WORKERS = 8
LOOKS_BROKEN = 8
"""So many failures in a row are said: the run goes on, since completions may be what the verifier cannot bear."""
TIMEOUT = "timeout: "
FAILED = (TIMEOUT, "crash: ", RAISED)
"""What the reason begins with where the verifier itself failed."""

Asked = tuple[Record, str]
Told = Callable[[int, int], None]
"""Is told after each verdict how many there are, and in how many of them the verifier itself failed."""


class Judge(Protocol):
    """Verdicts on (record, completion). Raises InvalidInput or ValueError for a record that cannot be judged."""

    def verdicts(self, asked: Sequence[Asked], *, told: Told | None = None) -> list[Verdict]: ...


class HereJudge:
    """A trusted domain: `verify` is called in this process, without a limit."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def verdicts(self, asked: Sequence[Asked], *, told: Told | None = None) -> list[Verdict]:
        verdicts: list[Verdict] = []
        failed = 0
        for record, completion in asked:
            verdicts.append(self._domain.verify(record, completion))
            failed += failures(verdicts[-1:])
            if told is not None:
                told(len(verdicts), failed)
        return verdicts


def failures(verdicts: Iterable[Verdict]) -> int:
    """In how many the verifier itself failed."""
    return sum(verdict.reason.startswith(FAILED) for verdict in verdicts)


@contextmanager
def judge_of(job: Job) -> Iterator[Judge]:
    """The judge that a job's spec means. The plugin's files are compared with their digests first."""
    plugin = job.spec.plugin
    if plugin is None or (plugin.domain is None and plugin.verifier is None):
        yield HereJudge(domain_of(job))
        return
    begin = {
        "folder": str(job.channel("plugin")),
        "domain": plugin.domain,
        "verifier": plugin.verifier,
        "name": job.spec.domain,
        "version": plugin_version(job.artifact("plugin").sha256),
    }
    workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // 2))
    with WorkerJudge(begin, workers=workers, warn=lambda text: job.progress.event("warning", message=text)) as judge:
        yield judge


class WorkerJudge:
    """A user's verifier in worker processes; they start at once and import while the caller does other things.

    `begin` is what `worker` imports: folder, name, version, and domain or verifier as `package.module:NAME`. `warn` is
    told once where the verifier itself fails again and again.
    """

    def __init__(
        self,
        begin: dict[str, Any],
        *,
        workers: int = 1,
        seconds: float | None = None,
        memory_bytes: int = MEMORY_BYTES,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._begin = {**begin, "memory_bytes": memory_bytes}
        self._seconds = VERIFIER_SECONDS if seconds is None else seconds
        self._workers = [Worker(self._begin) for _ in range(workers)]
        self._warn = warn
        self._failed_in_a_row = 0

    def __enter__(self) -> WorkerJudge:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def verdicts(self, asked: Sequence[Asked], *, told: Told | None = None) -> list[Verdict]:
        """A verdict each, in their order.

        Raises InvalidInput where the code cannot be imported, what it returns is no verdict, or a record is broken.
        """
        try:
            return self._ask(asked, told)
        except BaseException:
            # What a worker has not answered yet must not be taken for the answer to a later call.
            for worker in self._workers:
                worker.kill()
            raise

    def _ask(self, asked: Sequence[Asked], told: Told | None) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        failed = 0
        waiting = {place: list(range(place, len(asked), len(self._workers))) for place in range(len(self._workers))}
        busy: dict[int, tuple[int, float]] = {}
        """Worker's place to its call and deadline."""
        with selectors.DefaultSelector() as selector:
            while len(found) < len(asked):
                for place, calls in waiting.items():
                    if place not in busy and calls:
                        call = calls.pop(0)
                        worker = self._ready(place)
                        selector.register(worker.socket, selectors.EVENT_READ, place)
                        busy[place] = call, time.monotonic() + self._seconds
                        worker.send(_call(call, *asked[call]), self._seconds)
                left = max(0.0, min(deadline for _, deadline in busy.values()) - time.monotonic())
                arrived = {key.data for key, _ in selector.select(left)}
                for place, (call, deadline) in list(busy.items()):
                    worker = self._workers[place]
                    verdict = worker.receive(call) if place in arrived else None
                    if verdict is None and time.monotonic() >= deadline:
                        verdict = _failure("timeout", f"the verifier took more than {self._seconds:g} s and was killed")
                        worker.spent = True
                    if verdict is not None:
                        selector.unregister(worker.socket)
                        del busy[place]
                        found[call] = verdict
                        failed += self._count(verdict)
                        if told is not None:
                            told(len(found), failed)
                        if worker.spent:
                            worker.kill()
        return [found[index] for index in range(len(asked))]

    def _count(self, verdict: Verdict) -> int:
        """1 where the verifier failed: without a word one that always hangs looks like a model that learns nothing."""
        failed = failures([verdict])
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
        if self._failed_in_a_row == LOOKS_BROKEN and self._warn is not None:
            self._warn(f"the verifier has failed {LOOKS_BROKEN} times in a row, the last by {verdict.reason}")
            self._warn = None
        return failed

    def _ready(self, place: int) -> Worker:
        """The worker of a place, another one where it was killed. Raises InvalidInput where it does not start."""
        if self._workers[place].killed:
            self._workers[place] = Worker(self._begin)
        self._workers[place].wait_until_ready(START_SECONDS)
        return self._workers[place]


class Worker:
    """One process with a socket to it, in a process group of its own."""

    def __init__(self, begin: dict[str, Any]) -> None:
        self.socket, theirs = socket.socketpair()
        self.killed = False
        self.spent = False
        """Whether another must take its place."""
        self._ready = False
        self._unread = b""
        self._target = begin["domain"] or begin["verifier"]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stepforge_jobs.domains.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        self.send(begin, START_SECONDS)

    def wait_until_ready(self, seconds: float) -> None:
        """Until the user's code is imported. Raises InvalidInput where it cannot be."""
        if self._ready:
            return
        deadline = time.monotonic() + seconds
        line = None
        while line is None and (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                line = self._line()
            except TimeoutError:
                break
        if line is None or not line.get("ready"):
            why = f"took more than {seconds:g} s" if line is None else line.get("error", self._end())
            self.kill()
            raise InvalidInput(f"{self._target!r} cannot be imported: {why}")
        self._ready = True

    def send(self, message: dict[str, Any], seconds: float) -> None:
        """Give up after `seconds`, or where the worker has ended: what it does not answer is noticed when waiting."""
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            return

    def receive(self, call: int) -> Verdict | None:
        """The verdict on a call; None where not all of it is there. Raises InvalidInput for what a user can mend."""
        line = self._line()
        if line is None:
            return None
        if line.get("call") != call:
            self.spent = True
            return _failure("crash", f"the verifier's process {line.get('error', self._end())}")
        self.spent = bool(line.get("replace"))
        if "error" in line:
            raise InvalidInput(line["error"])
        try:
            # Half of a surrogate pair is text to Python and JSON, but no file of rows could be written with it.
            return Verdict.model_validate_json(json.dumps(line["verdict"], ensure_ascii=False).encode(errors="replace"))
        except ValidationError as error:
            raise InvalidInput(f"{self._target!r} returned a Verdict that is none: {first_problem(error)}") from error

    def _line(self) -> dict[str, Any] | None:
        """The next message; None where not all of it is there, one without `call` where none will come."""
        try:
            chunk = self.socket.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        self._unread += chunk
        if b"\n" not in self._unread:
            if len(self._unread) > MOST_REPLY_BYTES:
                return {"error": f"wrote more than {MOST_REPLY_BYTES} bytes"}
            return None if chunk else {}
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        return message if isinstance(message, dict) else {"error": "wrote what is no answer"}

    def _end(self) -> str:
        """How it ended. It is not waited for: until then its number, and so its process group, is nobody else's."""
        for _ in range(100):
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                by_itself = ended.si_code == os.CLD_EXITED
                return f"ended with exit code {ended.si_status}" if by_itself else _signal_words(ended.si_status)
            time.sleep(0.01)
        return "closed its connection"

    def kill(self) -> None:
        """SIGKILL to the worker and what it started, unless that left its process group."""
        if self.killed:
            return
        self.killed = True
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.socket.close()


def _signal_words(number: int) -> str:
    return f"was ended by {signal.Signals(number).name}"


def _call(number: int, record: Record, completion: str) -> dict[str, Any]:
    return {"call": number, "record": record.model_dump(mode="json"), "completion": completion}


def _failure(kind: str, message: str) -> Verdict:
    return Verdict(accepted=False, reward=0.0, partial=0.0, reason=f"{kind}: {message}")


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONHASHSEED": "0",
        # Compiled files would lie among those that the plugin's manifest vouches for.
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
