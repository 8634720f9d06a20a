"""Secrets from Secrets Manager: within 200 ms, cached, stale rather than absent, and never printed.

>>> secrets = Secrets(boto3.client("secretsmanager"))  # doctest: +SKIP
>>> key = secrets.get("arn:aws:secretsmanager:eu-west-1:111122223333:secret:provider-a1b2c3")  # doctest: +SKIP
>>> call_provider(key.reveal())  # doctest: +SKIP

See docs/secrets.md. Not covered: an asyncio client (`asyncio.to_thread(secrets.get, ...)` serves), and memory that
somebody who can read the process's looks into.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

from stepforge.errors import BudgetExceeded, CircuitOpen, InvalidInput, SecretUnavailable, TooManyAbandoned
from stepforge.watchdog import SYSTEM, Breaker, Clock, Listener, MemoryState, budget_of, remaining_seconds, watchdog

__all__ = ["Secret", "Secrets"]

logger = logging.getLogger(__name__)
NAME = "secrets"
"""Of the watchdog: STEPFORGE_BUDGET_SECRETS_SECONDS sets the budget."""
BUDGET_SECONDS = 0.2
MASK = "********"
CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"
_WRONG = ("ResourceNotFoundException", "InvalidParameterException", "InvalidRequestException", "ValidationException")
_DENIED = ("AccessDeniedException", "AccessDenied", "DecryptionFailure")
_system = random.SystemRandom()
_fetching: ContextVar[bool] = ContextVar("stepforge_fetches_secret", default=False)


class Secret:
    """A value that shows itself to `reveal()` alone: not to repr, str, format, pickle, JSON or a traceback.

    >>> secret = Secret("provider", "hunter2", version="v1")
    >>> secret, f"{secret:>10}", secret.reveal()
    (Secret('provider', ********), '********', 'hunter2')
    """

    __slots__ = ("_held", "id", "stages", "stale", "version")

    def __init__(
        self,
        id: str,
        value: str | bytes,
        *,
        version: str = "",
        stages: tuple[str, ...] = (),
        stale: bool = False,
    ) -> None:
        self.id, self.version, self.stages = id, version, stages
        self.stale = stale
        """Whether it is older than it should be, because no newer one could be had."""
        # In a closure: what walks over attributes, as debuggers' and error trackers' dumps do, meets a function.
        self._held: Callable[[], str | bytes] = lambda: value

    def reveal(self) -> str:
        """The value as text; one that was stored as bytes is taken for UTF-8."""
        value = self._held()
        return value.decode() if isinstance(value, bytes) else value

    def reveal_bytes(self) -> bytes:
        """The value as bytes; text becomes UTF-8."""
        value = self._held()
        return value.encode() if isinstance(value, str) else value

    def _aged(self) -> Secret:
        return Secret(self.id, self._held(), version=self.version, stages=self.stages, stale=True)

    def __repr__(self) -> str:
        return f"Secret({self.id!r}, {MASK}{', stale' if self.stale else ''})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, _: str) -> str:
        return MASK

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError(f"{self!r} is not pickled: pass its ARN, and fetch it where it is needed")


_Key = tuple[str, str]
"""Secret and stage."""


@dataclass
class _Entry:
    secret: Secret
    fresh_until: float
    stale_until: float
    refreshed: float = float("-inf")
    """When a caller last had it fetched because it did not work."""


@dataclass
class _Flight:
    """One fetch that is under way, for everybody who waits for it."""

    began: float
    started: bool = False
    late: bool = False
    """Whether who began it has given up: who has a stale value need not wait as long again to learn the same."""
    done: threading.Event = field(default_factory=threading.Event)
    secret: Secret | None = None
    error: BaseException | None = None


class Secrets:
    """Fetches and caches for one process; threads may share it.

    client: boto3's for Secrets Manager, in the caller's session and region, or anything with its `get_secret_value`.
    Give it short timeouts: a fetch that is abandoned after `budget_seconds` goes on in its thread for as long as these
    allow, and fills the cache. fresh_seconds: how long a value is served without asking, less up to a tenth at random,
    so that a fleet does not ask at once. stale_seconds: how much longer it is served, told as stale, while Secrets
    Manager is slow or down. refresh_seconds: how often `refresh` asks for one secret at most.
    """

    def __init__(
        self,
        client: Any,
        *,
        budget_seconds: float = BUDGET_SECONDS,
        fresh_seconds: float = 300.0,
        stale_seconds: float = 3_600.0,
        refresh_seconds: float = 5.0,
        clock: Clock = SYSTEM,
        on_event: Listener | None = None,
    ) -> None:
        if min(budget_seconds, fresh_seconds) <= 0 or min(stale_seconds, refresh_seconds) < 0:
            raise InvalidInput(
                f"budget_seconds {budget_seconds:g} and fresh_seconds {fresh_seconds:g} must be above 0, stale_seconds "
                f"{stale_seconds:g} and refresh_seconds {refresh_seconds:g} at least 0"
            )
        self._client, self._clock, self._budget_seconds = client, clock, budget_seconds
        self._fresh, self._stale, self._refresh = fresh_seconds, stale_seconds, refresh_seconds
        self._cached: dict[_Key, _Entry] = {}
        self._flights: dict[_Key, _Flight] = {}
        self._told: set[_Key] = set()
        self._lock = threading.Lock()
        # After two failures what is cached is served without waiting for a third. Each process has its own network.
        self._breaker = Breaker(
            NAME, failures=2, open_seconds=5, probe_seconds=5, counts=_is_transient, state=MemoryState(clock)
        )
        self._fetch_in_time = watchdog(
            NAME, budget_seconds=budget_seconds, when_late="abandon", breaker=self._breaker, on_event=on_event
        )(self._fetch)
        _hide_from_logs()

    def get(self, secret_id: str, *, stage: str = CURRENT) -> Secret:
        """The secret of an ARN or a name. At most one fetch for each is under way; who comes meanwhile waits for it.

        Raises SecretUnavailable where none could be had in time and none is cached that is young enough, InvalidInput
        where there is no such secret or it may not be read.
        """
        key = (secret_id, stage)
        entry = self._cached.get(key)
        if entry is not None and self._clock.monotonic() < entry.fresh_until:
            return entry.secret
        try:
            return self._renewed(key, patient=entry is None)
        except SecretUnavailable as error:
            if entry is None or self._clock.monotonic() >= entry.stale_until:
                raise
            self._tell_stale(key, error)
            return entry.secret._aged()

    def refresh(self, failed: Secret) -> Secret:
        """A newer value than one with which authentication failed, after a rotation: AWSCURRENT, else AWSPENDING.

        The same version comes back where there is no other: then the failure has another cause. So it does within
        `refresh_seconds` of the last refresh. Raises as `get` does, but serves nothing stale.
        """
        key = (failed.id, CURRENT)
        entry = self._cached.get(key)
        if entry is not None and entry.secret.version != failed.version:
            return entry.secret
        if entry is not None and self._clock.monotonic() - entry.refreshed < self._refresh:
            return entry.secret
        found = self._renewed(key)
        self._cached[key].refreshed = self._clock.monotonic()
        if found.version != failed.version:
            return found
        try:
            pending = self._renewed((failed.id, PENDING))
        except InvalidInput:
            # No rotation is under way.
            return found
        return pending

    def forget(self, secret_id: str) -> None:
        """Drop what is cached of a secret."""
        for key in [key for key in self._cached if key[0] == secret_id]:
            self._cached.pop(key, None)

    def _renewed(self, key: _Key, *, patient: bool = True) -> Secret:
        with self._lock:
            flight, now = self._flights.get(key), self._clock.monotonic()
            # One that hangs for good, on a client without timeouts, must not end all fetches.
            leads = flight is None or now - flight.began > 20 * self._budget_seconds
            if leads:
                flight = self._flights[key] = _Flight(now)
        assert flight is not None
        try:
            if leads:
                return self._fetch_in_time(key, flight)
            return self._follow(flight, patient=patient)
        except (BudgetExceeded, CircuitOpen, TooManyAbandoned) as error:
            flight.late = True
            if leads and not flight.started:
                self._end(key, flight, error=error)
            raise SecretUnavailable(f"secret {key[0]!r} could not be had: {error}. {_remedy()}") from error
        except Exception as error:
            raise self._explained(key, error) from error

    def _follow(self, flight: _Flight, *, patient: bool) -> Secret:
        budget = budget_of(NAME, self._budget_seconds) or self._budget_seconds
        seconds = min(budget, remaining_seconds()) if patient or not flight.late else 0.0
        if not flight.done.wait(seconds):
            raise BudgetExceeded(f"the fetch that is under way takes longer than {budget:.3g} s")
        if flight.secret is None:
            assert flight.error is not None
            # A copy for each thread: raising writes into an exception.
            raise _Failed(flight.error) from flight.error
        return flight.secret

    def _fetch(self, key: _Key, flight: _Flight) -> Secret:
        """In a thread of its own: what comes late still fills the cache."""
        flight.started = True
        token = _fetching.set(True)
        try:
            secret = _secret_of(key[0], self._client.get_secret_value(SecretId=key[0], VersionStage=key[1]))
        except BaseException as error:
            self._end(key, flight, error=error)
            raise
        finally:
            _fetching.reset(token)
        now = self._clock.monotonic()
        fresh_until = now + self._fresh * _system.uniform(0.9, 1.0)
        previous = self._cached.get(key)
        entry = _Entry(secret, fresh_until, now + self._fresh + self._stale)
        if previous is not None:
            entry.refreshed = previous.refreshed
        self._cached[key] = entry
        self._told.discard(key)
        self._end(key, flight, secret=secret)
        return secret

    def _end(
        self, key: _Key, flight: _Flight, *, secret: Secret | None = None, error: BaseException | None = None
    ) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.secret, flight.error = secret, error
        flight.done.set()

    def _explained(self, key: _Key, error: Exception) -> Exception:
        cause = error.__cause__ if isinstance(error, _Failed) and isinstance(error.__cause__, Exception) else error
        code = _code(cause)
        if code in _WRONG:
            # What is gone is not served as stale, whatever fails next. Another stage of it may well be there.
            self._cached.pop(key, None)
            return InvalidInput(
                f"secret {key[0]!r} has no value under {key[1]}: {cause}. Check its name, region and account, and that "
                "it is not marked for deletion"
            )
        if code in _DENIED:
            self.forget(key[0])
            return InvalidInput(
                f"secret {key[0]!r} may not be read: {cause}. The role needs secretsmanager:GetSecretValue on it, and "
                "kms:Decrypt on its key"
            )
        if _is_transient(cause):
            said = f"{type(cause).__name__}: {cause}"
            return SecretUnavailable(f"secret {key[0]!r} could not be had: {said}. {_remedy()}")
        return cause

    def _tell_stale(self, key: _Key, error: Exception) -> None:
        with self._lock:
            first = key not in self._told
            self._told.add(key)
        if first:
            logger.warning("secret %s: a stale value is served until a newer one can be had: %s", key[0], error)


class _Failed(Exception):
    """The fetch that others waited for failed; its cause says how."""


def _secret_of(secret_id: str, answer: Any) -> Secret:
    value = answer.get("SecretString")
    if value is None:
        value = answer.get("SecretBinary")
    if value is None:
        raise InvalidInput(
            f"secret {secret_id!r} has neither a SecretString nor a SecretBinary: give it a value in Secrets Manager"
        )
    return Secret(secret_id, value, version=answer.get("VersionId", ""), stages=tuple(answer.get("VersionStages", ())))


def _code(error: BaseException) -> str:
    """The code of botocore's ClientError, which is not imported here."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_transient(error: Exception) -> bool:
    """Whether Secrets Manager, the way there or the caller's credentials failed, and not what was asked for."""
    if code := _code(error):
        return code not in _WRONG and code not in _DENIED
    return isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "urllib3"))


def _remedy() -> str:
    return (
        f"It is tried again with the next call. Where {BUDGET_SECONDS:g} s are too little, on a first connection say, "
        "set STEPFORGE_BUDGET_SECRETS_SECONDS"
    )


class _NoSecrets(logging.Filter):
    """Drops what is logged in the course of a fetch: at DEBUG, botocore writes answers out, the value included."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _fetching.get()


_no_secrets = _NoSecrets()
_LOUD = ("botocore.parsers", "botocore.endpoint", "botocore.hooks", "botocore.retryhandler", "urllib3.connectionpool")


def _hide_from_logs() -> None:
    for name in _LOUD:
        # Adding it twice adds it once.
        logging.getLogger(name).addFilter(_no_secrets)
