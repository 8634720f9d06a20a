"""Which errors of a call pass by themselves, and how long is waited for that: for every client of a `Connection`.

botocore's own retries end after a few attempts, and sooner where many calls fail (its quota is 100 retries a client):
under half of all calls throttled they lose about one call in 250. Here a budget of time decides, with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), and credentials that have expired are
renewed through the caller's own session.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import boto3

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Trouble = Literal["throttled", "unavailable", "credentials"]

# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_THROTTLED = {
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_UNAVAILABLE = {
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_UNAVAILABLE_STATUS = (500, 502, 503, 504)
_NO_CONNECTION = (
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "EndpointConnectionError",
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseStreamingError",
)
_NO_LOGIN = ("CredentialRetrievalError", "SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError")
"""What signing a request raises where credentials cannot be renewed. Names of botocore's: importing it takes long."""
SAID_AFTER_SECONDS = 10.0


class SlowAnswer(Exception):
    """An answer that was still on its way when its time was over: socket time-outs do not see one that trickles."""


def trouble(error: BaseException) -> Trouble | None:
    """What kind of passing trouble an error of a call is; None for one that would come again.

    >>> trouble(SlowAnswer("DescribeTrainingJob: no whole answer in 20 s"))
    'unavailable'
    """
    if isinstance(error, SlowAnswer):
        return "unavailable"
    name = type(error).__name__
    if type(error).__module__.startswith("botocore"):
        if name in _NO_CONNECTION:
            return "unavailable"
        if name in _NO_LOGIN:
            return "credentials"
    response: dict[str, Any] | None = getattr(error, "response", None)
    return None if response is None else _of_response(response)


def _of_response(response: dict[str, Any]) -> Trouble | None:
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED or status == 429:
        return "throttled"
    if code in _EXPIRED:
        return "credentials"
    return "unavailable" if code in _UNAVAILABLE or status in _UNAVAILABLE_STATUS else None


def hint(error: BaseException) -> str:
    """What to do about a refusal that has to do with this machine's clock or credentials; empty for any other."""
    found: dict[str, Any] = getattr(error, "response", {}).get("Error", {})
    code, message = found.get("Code", ""), str(found.get("Message", ""))
    if code in _SKEWED or "Signature expired" in message or "Signature not yet current" in message:
        return (
            "This machine's clock is off: AWS takes signatures within 5 minutes of its own (S3 within 15). Set the "
            "clock (`timedatectl set-ntp true`); names and locks do not depend on it, so run the command again"
        )
    if code in _EXPIRED or type(error).__name__ in _NO_LOGIN:
        return "The credentials have expired: renew them (`aws sso login`, say), and run the command again"
    return ""


def bounded(call: Callable[[], Answer], seconds: float, *, what: str = "the call") -> Answer:
    """The call's answer, or its error. Raises SlowAnswer after `seconds`; the call is left to itself then."""
    box: queue.SimpleQueue[tuple[Answer | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again, in the caller's thread
            box.put((None, error))

    threading.Thread(target=run, name="bounded-call", daemon=True).start()
    try:
        answer, error = box.get(timeout=seconds)
    except queue.Empty:
        raise SlowAnswer(f"{what}: no whole answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


class Bounded:
    """A client whose calls end within `seconds` each, whatever the network does. `answered` is called after each."""

    def __init__(self, client: Any, seconds: float, answered: Callable[[], None] = lambda: None) -> None:
        self._client, self._seconds, self._answered = client, seconds, answered

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name in ("exceptions", "meta", "get_paginator", "get_waiter") or not callable(found):
            return found

        def call(**request: Any) -> Any:
            answer = bounded(partial(found, **request), self._seconds, what=name)
            self._answered()
            return answer

        return call


@dataclass
class Patience:
    """How long calls that met passing trouble are tried again. As botocore's `needs-retry` handler."""

    budget_seconds: float = 300.0
    """For one call, from its first attempt."""
    attempts: int | None = None
    """At most so many, where they are bounded too."""
    base_seconds: float = 0.5
    most_seconds: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    renew: Callable[[], bool] | None = None
    """Renews the credentials; returns whether they are others now."""

    def delay(self, attempt: int) -> float:
        """Seconds before the attempt after number `attempt`, which counts from 1."""
        return self.random() * min(self.most_seconds, self.base_seconds * 2 ** min(attempt, 30))

    def watch(self, client: Any) -> None:
        """Let this decide about a client's retries; the client's own configuration must allow none."""
        service = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register(f"needs-retry.{service}", self.needs_retry, unique_id="stepforge-patience")

    def needs_retry(
        self, *, attempts: int, operation: Any, response: Any, caught_exception: Any, request_dict: Any, **_: Any
    ) -> float | None:
        """0 to try again, after a pause that was made here; None to give up."""
        found = trouble(caught_exception) if caught_exception is not None else _of_response(response[1])
        if found is None or (self.attempts is not None and attempts >= self.attempts):
            return None
        now = self.clock()
        elapsed = now - request_dict["context"].setdefault("stepforge_first_attempt", now)
        if found == "credentials" and (self.renew is None or not self.renew()):
            return None
        pause = self.delay(attempts)
        if elapsed + pause > self.budget_seconds:
            return None
        if elapsed + pause > SAID_AFTER_SECONDS:
            logger.warning("%s: %s for %.0f s; it is tried again", operation.name, found, elapsed)
        self.sleep(pause)
        return 0.0


def renew_credentials(session: boto3.Session) -> bool:
    """Renew the credentials of the caller's session in place. Returns whether they are others now.

    A role or SSO login renews itself; what came from a file or the environment is read again. Credentials that the
    caller gave as such are left alone: there is nowhere to read them from.
    """
    from botocore.credentials import RefreshableCredentials
    from botocore.exceptions import BotoCoreError

    found: Any = session.get_credentials()
    if found is None or found.method == "explicit":
        return False
    before = found.access_key, found.token
    if isinstance(found, RefreshableCredentials):
        # AWS says that they have expired, whatever this machine's clock says.
        found._expiry_time = found._time_fetcher()
        try:
            return (found.access_key, found.token) != before
        except (BotoCoreError, RuntimeError):
            return False
    resolver: Any = session._session.get_component("credential_provider")
    again = resolver.load_credentials()
    if again is None or (again.access_key, again.token) == before:
        return False
    found.access_key, found.secret_key, found.token = again.access_key, again.secret_key, again.token
    return True
