"""The only door of the local AWS: decides who comes in, then hands on to SageMaker's service or to the backend.

Refused: a Host that is not this machine (DNS rebinding), any request that a browser sends for a page (Origin), and
whatever is not signed with the key of this local AWS, or that of a session which STS began for who had it. No CORS
header leaves. The backend has no port of its own: it is called in this process, so there is no way around this door.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, Protocol
from xml.sax.saxutils import escape

from stepforge.local.signatures import Refused, Request, check_key, claimed_key, claimed_scope, verify
from stepforge.local.state import AccessKey

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"^(localhost|127\.0\.0\.1|[a-z0-9][a-z0-9.-]*\.localhost)(:\d{1,5})?$", re.IGNORECASE)
_READS = re.compile(r"^(Describe|List|Get|Head|Batch[GD]e|Search|Filter|Lookup|Receive)")


class SageMaker(Protocol):
    """`answer` is called from a thread of its own."""

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]: ...


class Front:
    def __init__(
        self,
        backend: Application,
        sagemaker: SageMaker,
        key: AccessKey,
        *,
        changed: Callable[[], None],
        session: Callable[[str], AccessKey | None],
    ) -> None:
        """`changed` is called after each request that may have altered the backend's state.

        `session` knows the keys that STS handed out, by their ids, until they expire.
        """
        self._backend, self._sagemaker, self._key, self._changed = backend, sagemaker, key, changed
        self._session = session

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._backend(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        request = _head(scope)
        try:
            check_origin(request)
            key = self._session(claimed_key(request)) or self._key
            check_key(request, key)
            body = await _body(receive)
            if body is None:
                return
            request = replace(request, body=body)
            signed = verify(request, key)
        except Refused as refusal:
            status = 400 if refusal.code in ("XAmzContentSHA256Mismatch", "InvalidArgument") else 403
            headers, body = refusal_response(request, refusal)
            logger.warning("refused: code=%s method=%s path=%s", refusal.code, request.method, request.raw_path)
            await _respond(send, status, headers, body)
            return
        if signed.service == "sagemaker":
            await _respond(send, *await asyncio.to_thread(self._sagemaker.answer, request))
            return
        await self._backend(scope, _replay(request.body, receive), _without_cors(send))
        if not _is_read(request):
            self._changed()


def check_origin(request: Request) -> None:
    """Raises Refused for a foreign Host, and for what a web page sent."""
    host = request.headers.get("host", "")
    if not _HOST.match(host):
        raise Refused("AccessDenied", f"Host {host!r} is not this machine: use localhost, 127.0.0.1 or *.localhost")
    if "origin" in request.headers or request.headers.get("sec-fetch-mode", "navigate") != "navigate":
        raise Refused("AccessDenied", "requests from web pages are refused")


def refusal_response(request: Request, refusal: Refused) -> tuple[dict[str, str], bytes]:
    """The error in the protocol that the client reads: XML for S3 and query services, JSON for the others."""
    scope = claimed_scope(request)
    json_protocol = "x-amz-target" in request.headers or (
        scope is not None and scope.service in ("lambda", "sagemaker")
    )
    if json_protocol:
        body = json.dumps({"__type": refusal.code, "message": str(refusal)}).encode()
        return {"content-type": "application/x-amz-json-1.1", "x-amzn-errortype": refusal.code}, body
    inner = f"<Code>{refusal.code}</Code><Message>{escape(str(refusal))}</Message>"
    if scope is not None and scope.service != "s3":
        inner = f"<Error><Type>Sender</Type>{inner}</Error>"
        return {"content-type": "text/xml"}, f"<ErrorResponse>{inner}</ErrorResponse>".encode()
    return {"content-type": "application/xml"}, f"<Error>{inner}</Error>".encode()


def _head(scope: Message) -> Request:
    """A request without its body, which only those who name the key get read."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), _text(value)
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    raw_path = scope.get("raw_path") or scope["path"].encode()
    return Request(scope["method"], raw_path.decode("latin-1"), scope["query_string"].decode("latin-1"), headers, b"")


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where the client went away."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _without_cors(send: Send) -> Send:
    async def filtered(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value) for name, value in message["headers"] if not name.lower().startswith(b"access-control-")
            ]
            message = {**message, "headers": kept}
        await send(message)

    return filtered


def _is_read(request: Request) -> bool:
    action = request.headers.get("x-amz-target", "").rpartition(".")[2]
    return request.method in ("GET", "HEAD") or bool(action and _READS.match(action))


async def _respond(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    headers = {**headers, "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(n.encode(), v.encode()) for n, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
