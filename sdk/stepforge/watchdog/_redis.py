"""Breakers whose state many processes share, in Redis.

A Lua script makes each change atomic: of all processes one is let through an open circuit. Times are the server's, so
that hosts whose clocks differ agree. Redis that is gone is never the guarded call's failure: what was known last goes
on in memory, which is told, and Redis is tried again. Not covered: Redis before version 5, a name server that hangs.
"""

from __future__ import annotations

import os
import threading
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stepforge.errors import EnvironmentUnavailable, InvalidInput
from stepforge.watchdog._breaker import Answer, Change, MemoryState, Permit, Rules, Status, Verdict
from stepforge.watchdog._clock import SYSTEM, Clock
from stepforge.watchdog._events import Kind, Listener, tell

if TYPE_CHECKING:
    from redis import Redis

REDIS_URL = "STEPFORGE_REDIS_URL"
INSTALL = "pip install 'stepforge[redis]'"
PREFIX = "stepforge:breaker:"

# The hash of a circuit: generation, open (0 or 1), failures, until, probe, probe_until; times in ms of the server. An
# absent one is a closed circuit. Both scripts answer what a mirror needs after what was asked for: generation, open,
# failures, ms that it stays open. A generation is the server's time in microseconds, so that a Redis which has lost its
# data never gives one out again.
_READ = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HMGET', KEYS[1], 'generation', 'open', 'failures', 'until', 'probe', 'probe_until')
local generation, open, failures = found[1] or '0', found[2] == '1', tonumber(found[3] or '0')
local till, probe, probe_until = tonumber(found[4] or '0'), found[5] or '', tonumber(found[6] or '0')
local function answer(first, second)
  return {first, second, generation, open and 1 or 0, failures, open and math.max(0, till - now) or 0}
end
"""
_ASK = (
    _READ
    + """
local token, probe_ms, keep_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not open then return answer('call', 0) end
if now < till then return answer('wait', till - now) end
if probe ~= '' and probe ~= token and now < probe_until then return answer('wait', probe_until - now) end
redis.call('HSET', KEYS[1], 'probe', token, 'probe_until', string.format('%d', now + probe_ms))
redis.call('PEXPIRE', KEYS[1], keep_ms)
return answer('probe', 0)
"""
)
_REPORT = (
    _READ
    + """
local of, token, verdict = ARGV[1], ARGV[2], ARGV[3]
local most, open_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if of ~= generation or token ~= probe then return answer('none', 0) end
local function turn(opens)
  generation = string.format('%d%06d', time[1], time[2])
  open, failures, till = opens, 0, opens and now + open_ms or 0
  redis.call('HSET', KEYS[1], 'generation', generation, 'open', opens and 1 or 0, 'failures', 0,
    'until', string.format('%d', till), 'probe', '', 'probe_until', 0)
  redis.call('PEXPIRE', KEYS[1], keep_ms)
  return answer(opens and 'opened' or 'closed', 0)
end
if open then
  if verdict ~= 'neutral' then return turn(verdict == 'failure') end
  redis.call('HSET', KEYS[1], 'probe', '')
elseif verdict == 'failure' then
  failures = failures + 1
  if failures >= most then return turn(true) end
  redis.call('HSET', KEYS[1], 'failures', failures)
  redis.call('PEXPIRE', KEYS[1], keep_ms)
elseif verdict == 'success' and failures > 0 then
  failures = 0
  redis.call('HSET', KEYS[1], 'failures', 0)
end
return answer('none', 0)
"""
)
_KEEP_SECONDS = 86_400.0
"""How long a circuit that nobody uses is kept beyond its own times."""


class RedisState:
    """Breaker state in Redis.

    >>> breaker = Breaker("vertex", state=RedisState("redis://localhost:6379/0"))  # doctest: +SKIP

    timeout_seconds: how long one command may take before Redis counts as gone. again_seconds: how long it is left alone
    then. Raises EnvironmentUnavailable where the package is not installed, InvalidInput for a malformed URL; that the
    server does not answer raises nothing, here or later.
    """

    waits = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        timeout_seconds: float = 0.1,
        again_seconds: float = 1.0,
        clock: Clock = SYSTEM,
        on_event: Listener | None = None,
    ) -> None:
        self._prefix, self._again, self._clock, self._listener = prefix, again_seconds, clock, on_event
        self._redis = _client(url, timeout_seconds)
        self._memory = MemoryState(clock)
        self._ask, self._report = self._redis.register_script(_ASK), self._redis.register_script(_REPORT)
        self._lock = threading.Lock()
        self._gone_until: float | None = None
        """None while Redis answers."""

    @property
    def shared(self) -> bool:
        """Whether the last command reached Redis."""
        return self._gone_until is None

    def ask(self, rules: Rules) -> Answer:
        token = uuid.uuid4().hex
        found = self._run(self._ask, rules, [token, _ms(rules.probe_seconds), _keep(rules)])
        if found is None:
            return self._memory.ask(rules)
        kind, wait_ms, generation = found[0], int(found[1]), int(found[2])
        if kind == b"wait":
            return Answer(None, wait_ms / 1000)
        return Answer(Permit(generation, token if kind == b"probe" else None))

    def report(self, rules: Rules, permit: Permit, verdict: Verdict) -> Change:
        arguments = [permit.generation, permit.probe or "", verdict, rules.failures, _ms(rules.open_seconds)]
        found = self._run(self._report, rules, [*arguments, _keep(rules)])
        if found is None:
            return self._memory.report(rules, permit, verdict)
        return Change(found[0].decode())

    def status(self, rules: Rules) -> Status:
        # Reads only: a success under a generation that never was changes nothing.
        found = self._run(self._report, rules, [-1, "", "neutral", rules.failures, 0, 0])
        if found is None:
            return self._memory.status(rules)
        return "open" if int(found[3]) else "closed"

    def _run(self, script: Any, rules: Rules, arguments: list[Any]) -> list[Any] | None:
        """What Redis answers; None while it is gone."""
        gone_until = self._gone_until
        if gone_until is not None and self._clock.monotonic() < gone_until:
            return None
        from redis.exceptions import RedisError

        try:
            found: list[Any] = script(keys=[self._prefix + rules.name], args=arguments)
        except (RedisError, OSError) as error:
            self._lost(rules, error)
            return None
        if gone_until is not None:
            self._back(rules)
        self._memory.mirror(
            rules, generation=int(found[2]), open=bool(found[3]), failures=int(found[4]), seconds=int(found[5]) / 1000
        )
        return found

    def _lost(self, rules: Rules, error: Exception) -> None:
        with self._lock:
            first = self._gone_until is None
            self._gone_until = self._clock.monotonic() + self._again
        if first:
            said = f"{type(error).__name__}: Redis is gone, breakers are those of this process alone until it is back"
            tell(Kind.STORE_LOST, rules.name, said, listener=self._listener)

    def _back(self, rules: Rules) -> None:
        with self._lock:
            first, self._gone_until = self._gone_until is not None, None
        if first:
            tell(Kind.STORE_BACK, rules.name, "Redis answers: breakers are shared again", listener=self._listener)


def _client(url: str, timeout_seconds: float) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise EnvironmentUnavailable(f"breakers in Redis need the extra 'redis' ({error}): {INSTALL}") from error
    try:
        # One try more: the first command after Redis was restarted meets a dead connection.
        return Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        # The URL may hold a password: it is not repeated.
        raise InvalidInput(
            "the URL of Redis is malformed: give redis://host:port/0, rediss://host:port/0 or unix:///path/to/socket"
        ) from error


@lru_cache(maxsize=1)
def _of_url(url: str) -> RedisState:
    return RedisState(url)


def state_of_environment() -> RedisState | None:
    """The Redis that STEPFORGE_REDIS_URL names, one connection pool for all; None where it names none.

    A URL that cannot be used, or a package that is absent, is told and is no error: breakers stay in the process then.
    """
    url = os.environ.get(REDIS_URL)
    if not url:
        return None
    try:
        return _of_url(url)
    except (EnvironmentUnavailable, InvalidInput) as error:
        tell(Kind.STORE_LOST, "redis", f"{REDIS_URL}: {error}; breakers are those of this process alone")
        return None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _keep(rules: Rules) -> int:
    return _ms(rules.open_seconds + rules.probe_seconds + _KEEP_SECONDS)
