"""What the local providers share: a threaded HTTP server on loopback, routes, and faults on request."""

from __future__ import annotations

import json
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

FAKE = "localfake"
HEADER = "x-stepforge-local-fake"
DISCLAIMER = "[local fake: nothing was trained]"
Fault = Literal[
    "throttled",  # 429, and nothing was done
    "error",  # 500, and nothing was done
    "error_after",  # 500, and it was done all the same
    "dropped",  # the connection ends before anything was done
    "lost",  # it was done, and the connection ends without an answer
    "late",  # the connection ends without an answer, and it is done afterwards
    "slow",  # the answer takes `delay_seconds`
    "echo",  # 400 with the whole request in its message, as some servers do
    "unknown_state",  # a state that no client has heard of
    "wrong_schema",  # JSON of another shape
]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Seen:
    """A request that came in, and what was made of it."""

    method: str
    path: str
    fault: Fault | None


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """What a handler raises to answer with an error in its protocol's form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


Handler = Callable[[Request, re.Match[str]], Reply]
Planner = Callable[[Request], Fault | None]


class LocalProvider(ABC):
    """A server of one protocol. Use it as a context manager; `url` is its address.

    `plan` decides on a fault for each request; `fail` orders one for the next matching request.
    """

    def __init__(self, *, plan: Planner | None = None, delay_seconds: float = 0.05, port: int = 0) -> None:
        self.plan = plan
        self.delay_seconds = delay_seconds
        self.seen: list[Seen] = []
        self.lock = threading.RLock()
        self._orders: list[tuple[str, re.Pattern[str], Fault]] = []
        self._late: list[threading.Timer] = []
        self._server = _Server(("127.0.0.1", port), _make_handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._counter = 0

    def __enter__(self) -> LocalProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for timer in self._late:
            timer.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, fault: Fault, *, method: str = "POST", path: str = ".*", times: int = 1) -> None:
        """Order a fault for the next `times` requests whose method and whole path match."""
        with self.lock:
            self._orders += [(method, re.compile(path), fault)] * times

    def calls(self, method: str, path: str) -> int:
        """How many requests came in, with or without a fault."""
        with self.lock:
            return sum(s.method == method and re.fullmatch(path, s.path) is not None for s in self.seen)

    def settle(self) -> None:
        """Wait for what `late` requests still have to do."""
        for timer in list(self._late):
            timer.join()

    # What a protocol defines

    @abstractmethod
    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, pattern of the whole path, handler."""

    def error(self, status: int, code: str, message: str) -> Any:
        """The body of an error, as the protocol has it."""
        return {"error": {"code": code, "message": message, "type": code}}

    def number(self) -> int:
        with self.lock:
            self._counter += 1
            return self._counter

    # Requests

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            for order in self._orders:
                method, path, fault = order
                if method == request.method and path.fullmatch(request.path):
                    self._orders.remove(order)
                    return fault
        return self.plan(request) if self.plan is not None else None

    def answer(self, request: Request) -> Reply | None:
        """The reply; None where the connection is to end without one."""
        fault = self.fault_for(request)
        with self.lock:
            self.seen.append(Seen(request.method, request.path, fault))
        if fault == "throttled":
            return Reply(429, self.error(429, "rate_limit_exceeded", "too many requests"), {"retry-after": "0"})
        if fault == "error":
            return Reply(500, self.error(500, "server_error", "something went wrong"))
        if fault == "echo":
            text = request.body.decode("utf-8", "replace") + " " + json.dumps(request.headers)
            return Reply(400, self.error(400, "invalid_request_error", f"cannot use {text}"))
        if fault == "dropped":
            return None
        if fault == "late":
            timer = threading.Timer(self.delay_seconds, self._handle, (request,))
            self._late.append(timer)
            timer.start()
            return None
        if fault == "slow":
            time.sleep(self.delay_seconds)
        reply = self._handle(request)
        if fault == "lost":
            return None
        if fault == "error_after":
            return Reply(500, self.error(500, "server_error", "something went wrong"))
        if fault == "wrong_schema":
            return Reply(200, {"surprise": [1, 2, 3]})
        if fault == "unknown_state":
            return Reply(reply.status, _with_unknown_state(reply.body), reply.headers)
        return reply

    def _handle(self, request: Request) -> Reply:
        for method, pattern, handler in self.routes():
            match = re.fullmatch(pattern, request.path)
            if method == request.method and match:
                try:
                    with self.lock:
                        return handler(request, match)
                except Refusal as refusal:
                    return Reply(refusal.status, self.error(refusal.status, refusal.code, str(refusal)))
        message = f"the local fake has no {request.method} {request.path}"
        return Reply(404, self.error(404, "not_found", message))


def _with_unknown_state(body: Any) -> Any:
    """The body with every state that it names replaced by one that nobody knows."""
    words = {"state": "JOB_STATE_REVIEW", "status": "in_review", "TrainingJobStatus": "InReview"}
    if isinstance(body, dict):
        return {key: words.get(key, value) for key, value in body.items()}
    return body


class Phases:
    """A job that goes one phase further each time someone looks, and stays in the last."""

    def __init__(self, names: tuple[str, ...], *, looks: int = 1) -> None:
        self._names, self._seen = names, 0
        self.looks = looks
        """A phase lasts for so many."""
        self._ended: str | None = None

    @property
    def now(self) -> str:
        return self._ended or self._names[min(self._seen // self.looks, len(self._names) - 1)]

    @property
    def over(self) -> bool:
        return self._ended is not None or self.now == self._names[-1]

    def look(self) -> str:
        found = self.now
        self._seen += 1
        return found

    def end(self, name: str) -> None:
        if not self.over:
            self._ended = name


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # With Nagle's algorithm each answer waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to report; our own faults end connections too."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _make_handler(provider: LocalProvider) -> type[BaseHTTPRequestHandler]:
    class _Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            request = Request(
                self.command,
                unquote(parts.path),
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                {name.lower(): value for name, value in self.headers.items()},
                b"".join(self._body()),
            )
            reply = provider.answer(request)
            if reply is None:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(SHUT_RDWR)
                return
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            headers = {"content-type": "application/json", HEADER: "1", **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        def handle_expect_100(self) -> bool:
            """Botocore waits for a second for this before it sends an object; in the buffer it would not reach it."""
            super().handle_expect_100()
            self.wfile.flush()
            return True

        def _body(self) -> Iterator[bytes]:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                yield self.rfile.read(int(self.headers.get("content-length") or 0))

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: what came in stands in `seen`."""

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve

    return _Handler
