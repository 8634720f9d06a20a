"""Keys of providers: given by the caller, shown to nobody."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from stepforge.errors import InvalidInput, ProviderError, ProviderRefused, ProviderUnavailable, Throttled
from stepforge.logs import redact

Key = SecretStr | Callable[[], str]
"""A key, or what fetches it: `lambda: secrets.get_secret_value(SecretId=arn)["SecretString"]`, say."""
HIDDEN = "***"
_CODE = re.compile(r"[\w.:/#-]{1,100}")
# What these say at DEBUG are whole requests: prompts, completions, and headers.
_TALKATIVE = (
    "dspy",
    "openai",
    "anthropic",
    "google_genai",
    "google",
    "botocore",
    "boto3",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "urllib3",
)

_in_call: ContextVar[bool] = ContextVar("stepforge_provider_call", default=False)

_NEVER_LEFT = ("ConnectError", "ConnectTimeout", "EndpointConnectionError", "ConnectTimeoutError")
"""Names of the clients' errors that come before the request: it was certainly not sent."""


def reveal(key: Key, *, what: str) -> str:
    """The key itself. Raises InvalidInput where it is empty or has a line end, without saying what it was."""
    if not isinstance(key, SecretStr) and not callable(key):
        raise InvalidInput(f"{what} must be a SecretStr, or a function that returns it: a plain text is easily printed")
    value = key.get_secret_value() if isinstance(key, SecretStr) else key()
    if not value or value != value.strip() or "\n" in value:
        raise InvalidInput(f"{what} is empty, or has spaces or line ends around it: give the key alone")
    return value


def without(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, and without what logs redact.

    >>> without("Incorrect API key provided: hunter22, of ann@example.org", ["hunter22"])
    'Incorrect API key provided: ***, of [redacted:email]'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return redact(text)


class _OutsideOurCalls(logging.Filter):
    """Lets through what others say, and warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _in_call.get()


_FILTER = _OutsideOurCalls()
_filtered = 0


@contextmanager
def unlogged() -> Iterator[None]:
    """While it lasts, this thread's calls of clients log no requests: no level is changed, and nobody else's lines go.

    >>> with unlogged():
    ...     logging.getLogger("botocore.endpoint").warning("is heard")
    """
    _attach()
    token = _in_call.set(True)
    try:
        yield
    finally:
        _in_call.reset(token)


def _attach() -> None:
    """A filter acts on its own logger alone, so each that exists by now gets it."""
    global _filtered
    known = logging.root.manager.loggerDict
    if len(known) == _filtered:
        return
    _filtered = len(known)
    for name in list(known):
        if name.partition(".")[0] in _TALKATIVE:
            logging.getLogger(name).addFilter(_FILTER)


def is_loopback(url: str | None) -> bool:
    """Whether an address is this machine's own.

    >>> is_loopback("http://127.0.0.1:8080/v1"), is_loopback("https://127.0.0.1.example.com"), is_loopback(None)
    (True, False, False)
    """
    host = urlsplit(url or "").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def failure(
    provider: str,
    call: str,
    *,
    status: int | None,
    code: str = "",
    message: str = "",
    secrets: Iterable[str] = (),
    about_content: bool = False,
) -> ProviderError | Throttled:
    """What an error of a client becomes. `status` is None where no answer came.

    A message is left out where the request carried records or prompts (`about_content`), because servers repeat them.
    """
    said = without(" ".join(message.split()), secrets)[:300]
    words = "" if about_content or not said else f": {said}"
    # A server may put what it quotes into the field of the code too: a code is one word.
    word = code if _CODE.fullmatch(code) else ""
    label = without(f"{status or 'no answer'}{f' {word}' if word else ''}", secrets)
    text = f"{provider} {call}: {label}{words}"
    if status is None and code in _NEVER_LEFT:
        return Throttled(f"{text}. It could not be reached, so nothing was done")
    if status == 429 and code != "insufficient_quota":
        return Throttled(f"{text}. It was not done; it is tried again later")
    if status in (301, 302, 303, 307, 308):
        # Of a redirect that a POST is answered with, 302 and 303 may say that it was done.
        elsewhere = f"{text}. It names another address, where nothing was sent: give that one if it is the right one"
        return ProviderUnavailable(elsewhere) if status in (302, 303) else ProviderRefused(elsewhere, status=status)
    if status is None or status >= 500 or status in (408, 409, 424):
        return ProviderUnavailable(f"{text}. Whether it was done is not known")
    remedy = {
        401: "check the key",
        402: "add credit to the account",
        403: "check what the key may do",
        404: "check the name, and the account and region that it is looked for in",
    }.get(status, "it was refused and nothing was done")
    return ProviderRefused(f"{text}. {remedy[0].upper()}{remedy[1:]}", status=status)


def unreadable(provider: str, call: str, answer: Any) -> ProviderUnavailable:
    """An answer of another shape: the types of its fields, never their contents."""
    shape = sorted(answer)[:8] if isinstance(answer, dict) else type(answer).__name__
    return ProviderUnavailable(
        f"{provider} {call}: the answer has another shape ({shape}): whether it was done is not known"
    )
