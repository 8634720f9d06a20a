"""Which errors are tried again, how often and after which pause."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from stepforge.errors import EnvironmentUnavailable, InvalidInput, Throttled
from stepforge.watchdog._budgets import is_number

# Of the system: after a fork, generators of all children would draw the same pauses.
_system = random.SystemRandom()


def is_transient(error: Exception) -> bool:
    """Whether it may be gone the next time: connections, time-outs, throttling, an environment that does not answer."""
    return isinstance(error, (ConnectionError, TimeoutError, Throttled, EnvironmentUnavailable))


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with full jitter: before attempt n + 1, a pause drawn evenly between 0 and
    min(longest, first * 2 ** (n - 1)) (M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).

    >>> Retries(attempts=4, first_pause_seconds=0.5).ceiling_seconds(3)
    2.0

    attempts: how often it is called at most, the first call included. when: which errors are tried again. Only for what
    may be done twice. Raises InvalidInput.
    """

    attempts: int = 3
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 10.0
    when: Callable[[Exception], bool] = is_transient
    uniform: Callable[[float, float], float] = _system.uniform

    def __post_init__(self) -> None:
        first, longest = self.first_pause_seconds, self.longest_pause_seconds
        whole = type(self.attempts) is int and self.attempts >= 1
        if not whole or not is_number(first) or not is_number(longest) or not 0 <= first <= longest:
            raise InvalidInput(
                f"attempts {self.attempts!r} must be a whole number, 1 or more, and first_pause_seconds {first!r} "
                f"between 0 and longest_pause_seconds {longest!r}"
            )

    def ceiling_seconds(self, attempt: int) -> float:
        """The longest pause after an attempt, from 1."""
        # 2.0 ** 1024 is an error.
        return min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(attempt - 1, 64))

    def pause_seconds(self, attempt: int) -> float:
        return self.uniform(0.0, self.ceiling_seconds(attempt))
