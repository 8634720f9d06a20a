"""A proxy on loopback that stands before an AWS endpoint and makes calls fail the ways in which they fail in the cloud.

Requests pass as they came, the Host header included, so their signatures stay valid: a local AWS takes any port of this
machine as its own. It counts calls by operation. Not covered: TLS, HTTP/2, pipelined requests.

>>> with FaultProxy("http://127.0.0.1:4600", [Rule("lost", "sagemaker:CreateTrainingJob", times=1)]) as proxy:
...     proxy.endpoint_url.startswith("http://127.0.0.1:"), proxy.count("sagemaker:*")
(True, 0)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal[
    "throttle", "too_many_requests", "lost", "cut", "error", "unavailable", "expired", "slow", "drip", "hang"
]
Headers = dict[str, str]

_ANSWERS: dict[str, tuple[int, str, str]] = {
    "throttle": (400, "ThrottlingException", "Rate exceeded"),
    "too_many_requests": (429, "TooManyRequestsException", "Too Many Requests"),
    "error": (500, "InternalFailure", "The request processing has failed because of an unknown error"),
    "unavailable": (503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server"),
    "expired": (400, "ExpiredTokenException", "The security token included in the request is expired"),
}
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_S3_ANSWERS: dict[str, tuple[int, str, str]] = {
    "throttle": (503, "SlowDown", "Please reduce your request rate."),
    "too_many_requests": (503, "SlowDown", "Please reduce your request rate."),
    "error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "unavailable": (503, "ServiceUnavailable", "Reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/([^/]+)/aws4_request")
_LIMIT = 1 << 20


@dataclass(frozen=True)
class Rule:
    """What happens to some calls of some operations.

    `throttle` and `too_many_requests` refuse with 400 and 429, `error` and `unavailable` with 500 and 503, `expired`
    says that the credentials are; `cut` closes the connection before the request is handed on, `lost` after it was and
    before its answer is; `slow` holds the answer back for `seconds`, `drip` sends a byte of it each `seconds`, `hang`
    never answers.
    """

    fault: Fault
    operation: str = "*"
    """Pattern of `service:Operation`, such as `sagemaker:Describe*`; of S3 and REST services `s3:PUT`."""
    share: float = 1.0
    """Part of the calls that it meets, by the proxy's seed and the call's number: threads change nothing about it."""
    skip: int = 0
    """Calls of an operation that pass first."""
    times: int | None = None
    """Calls that it meets at most."""
    seconds: float = 1.0


@dataclass(frozen=True)
class Call:
    """One request: `number` counts those of its operation from 0; `fault` is what was done to it, if anything."""

    operation: str
    number: int
    at: float
    """Seconds of the proxy's monotonic clock."""
    body: bytes
    fault: Fault | None
    signed_at: str = ""
    """The client's own time in the signature, as YYYYMMDDTHHMMSSZ."""

    def field(self, name: str) -> Any:
        """A member of a JSON request; None where there is none."""
        try:
            return json.loads(self.body).get(name)
        except ValueError:
            return None


class FaultProxy:
    """Forwards HTTP from a free port of loopback to `target`. A context manager; its rules can change at any time."""

    def __init__(self, target: str, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        split = urlsplit(target)
        if split.scheme != "http" or split.hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(
                f"target {target!r} is not http on this machine: faults are injected into a local AWS only"
            )
        self._target = (split.hostname, split.port or 80)
        self.rules = list(rules)
        self.calls: list[Call] = []
        self._seed = seed
        self._numbers: Counter[str] = Counter()
        self._met: Counter[_ById] = Counter()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def endpoint_url(self) -> str:
        assert self._server is not None, "enter the proxy first: with FaultProxy(...) as proxy"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def count(self, operation: str = "*", *, faulty: bool | None = None) -> int:
        """Calls so far of the operations that match; `faulty` keeps those that a fault met, or those that none did."""
        return len(self.seen(operation, faulty=faulty))

    def seen(self, operation: str = "*", *, faulty: bool | None = None) -> list[Call]:
        return [
            call
            for call in list(self.calls)
            if fnmatchcase(call.operation, operation) and faulty in (None, call.fault is not None)
        ]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LIMIT, backlog=1024)
        )
        self._ready.set()
        self._loop.run_forever()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = _Upstream(self._target)
        try:
            while (request := await _request(reader, writer)) is not None:
                if not await self._answer(request, upstream, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # One of the two sides went away, or the proxy is at its end: asyncio logs a cancelled handler as a failure.
            return
        finally:
            upstream.close()
            writer.close()

    async def _answer(self, request: _Request, upstream: _Upstream, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Returns whether the connection goes on."""
        rule = self._fate(request)
        fault = rule.fault if rule is not None else None
        if fault == "cut":
            return False
        if fault == "hang":
            await asyncio.Event().wait()
        if fault in _ANSWERS:
            writer.write(_refusal(fault, request))
            await writer.drain()
            return True
        answer = await upstream.send(request)
        if fault == "lost":
            return False
        if rule is not None and fault == "slow":
            await asyncio.sleep(rule.seconds)
        if rule is not None and fault == "drip":
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(rule.seconds)
        else:
            writer.write(answer)
            await writer.drain()
        return True

    def _fate(self, request: _Request) -> Rule | None:
        operation = request.operation
        number = self._numbers[operation]
        self._numbers[operation] += 1
        found = None
        for index, rule in enumerate(self.rules):
            if not fnmatchcase(operation, rule.operation) or number < rule.skip:
                continue
            if rule.times is not None and self._met[_ById(rule)] >= rule.times:
                continue
            if _draw(self._seed, index, operation, number) < rule.share:
                self._met[_ById(rule)] += 1
                found = rule
                break
        fault = found.fault if found is not None else None
        self.calls.append(
            Call(operation, number, self._loop.time(), request.body, fault, request.headers.get("x-amz-date", ""))
        )
        return found


class _ById:
    """A rule as a key: two that are equal are two, and one that was taken away keeps its place in memory."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other._rule is self._rule

    def __hash__(self) -> int:
        return id(self._rule)


def _draw(*of: object) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.sha256(repr(of).encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: Headers
    head: bytes
    body: bytes

    @property
    def service(self) -> str:
        found = _SCOPE.search(self.headers.get("authorization", ""))
        return found.group(1) if found else "unknown"

    @property
    def operation(self) -> str:
        return f"{self.service}:{self.headers.get('x-amz-target', '').rpartition('.')[2] or self.method}"


class _Upstream:
    """One connection to the target, opened again where it was closed meanwhile."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: _Request) -> bytes:
        reused = self._streams is not None
        try:
            return await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            if not reused:
                raise
            return await self._exchange(request)

    async def _exchange(self, request: _Request) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._target, limit=_LIMIT)
        reader, writer = self._streams
        writer.write(request.head + request.body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status, headers = int(head.split(b" ", 2)[1]), _headers(head)
        if request.method == "HEAD" or status in (204, 304):
            return head
        if "content-length" in headers:
            return head + await reader.readexactly(int(headers["content-length"]))
        if "chunked" in headers.get("transfer-encoding", ""):
            return head + await _chunks(reader)
        body = await reader.read(-1)
        self.close()
        return head + body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request | None:
    """The next request, whole; None where the client has closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = _headers(head)
    if headers.get("expect", "").lower() == "100-continue":
        # Botocore leaves this header out of what it signs.
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        head = re.sub(rb"(?im)^expect:.*\r\n", b"", head)
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif "chunked" in headers.get("transfer-encoding", ""):
        body = await _chunks(reader)
    method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    return _Request(method, path, headers, head, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it came, to its last chunk and trailer."""
    raw = b""
    while True:
        line = await reader.readline()
        raw += line
        size = int(line.split(b";")[0], 16)
        raw += await reader.readexactly(size) if size else b""
        raw += await reader.readline()
        if size == 0:
            while not raw.endswith(b"\r\n\r\n"):
                raw += await reader.readline()
            return raw


def _headers(head: bytes) -> Headers:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _refusal(fault: str, request: _Request) -> bytes:
    """The error in the protocol that the client reads."""
    if request.service == "s3":
        status, code, message = _S3_ANSWERS[fault]
        kind, body = "application/xml", f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    else:
        status, code, message = _ANSWERS[fault]
        kind, body = "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message})
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: {kind}\r\nx-amzn-errortype: {code}\r\n"
    return f"{head}x-amzn-requestid: injected\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
