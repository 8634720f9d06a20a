"""How often who follows may ask: one Describe of a job in 30 s, whoever in this process wants to know about it.

SageMaker limits the calls of a whole account, and counts those that it refuses: an answer that was a refusal is waited
for as long as any other, and longer where refusals go on.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import is_absent
from stepforge.connection import Connection
from stepforge.machines.attempts import ending
from stepforge.patience import trouble

_LONGEST_BACKOFF = 2
"""After refusals in a row: so many times the usual distance."""


@dataclass(frozen=True)
class Pace:
    """Distances in seconds. `clock`, `sleep` and `random` can be replaced: tests pass ten minutes in seconds."""

    describe_seconds: float = 30.0
    """At least that between two DescribeTrainingJob of a job."""
    logs_seconds: float = 5.0
    jitter: float = 0.2
    """Up to this part more, so that followers who started together do not stay together."""
    give_up_seconds: float = 3_600.0
    """Without one answer for so long a follower ends."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def spread(self, seconds: float) -> float:
        return seconds * (1 + self.jitter * self.random())


LOCAL_PACE = Pace(describe_seconds=0.5, logs_seconds=0.5, give_up_seconds=5.0)


class NotYet(Exception):
    """A job of which nothing is known, and that may not be asked about for `seconds` more.

    `refusal` is what the last call met, whoever of this process made it; None where nobody has asked.
    """

    def __init__(self, name: str, seconds: float, refusal: Exception | None = None) -> None:
        self.seconds, self.refusal = seconds, refusal
        super().__init__(f"{name} may be described again in {seconds:.0f} s")


@dataclass
class _Known:
    lock: threading.Lock = field(default_factory=threading.Lock)
    due: float = float("-inf")
    as_of: float = float("-inf")
    refusals: int = 0
    description: dict[str, Any] | None = None
    absent: AwsError | None = None
    refusal: Exception | None = None
    """The passing trouble that the last call met; None after an answer."""


class PacedJobs:
    """DescribeTrainingJob for followers: answers from memory until the next call is due. Safe in threads.

    A job that has ended stays as it is, and is not asked about again.
    """

    def __init__(self, sagemaker: Any, pace: Pace) -> None:
        self._sagemaker, self.pace = sagemaker, pace
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:
        """As boto3's. Raises NotYet where a call is not due and none has succeeded, and what a due call raises."""
        with self._lock:
            known = self._known.setdefault(TrainingJobName, _Known())
        with known.lock:
            now = self.pace.clock()
            ended = known.description is not None and ending(known.description) is not None
            if ended or now < known.due:
                return self._remembered(TrainingJobName, known, now)
            known.refusals += 1
            try:
                job = self._sagemaker.describe_training_job(TrainingJobName=TrainingJobName)
                known.description, known.absent = job, None
                known.refusal, known.refusals, known.as_of = None, 0, now
            except Exception as error:
                if not (isinstance(error, AwsError) and is_absent(error)):
                    # What does not pass by itself is for who asked; whoever asks next may have mended it.
                    known.refusal = error if trouble(error) else None
                    raise
                known.absent, known.refusal, known.refusals, known.as_of = error, None, 0, now
            finally:
                # From the answer on: the service sees two calls as far apart as this, however long one took to arrive.
                known.due = self.pace.clock() + self._distance(known)
            return self._remembered(TrainingJobName, known, now)

    def list_tags(self, **request: Any) -> Any:
        """Of jobs that others made; ours carry what is needed in their description."""
        return self._sagemaker.list_tags(**request)

    def due(self, name: str) -> float:
        """When a job may be asked about again, on the clock of the pace."""
        known = self._known.get(name)
        return self.pace.clock() if known is None else known.due

    def as_of(self, name: str) -> float:
        """When the call was made whose answer is remembered, on the clock of the pace; minus infinity without one."""
        known = self._known.get(name)
        return float("-inf") if known is None else known.as_of

    def refusal(self, name: str) -> Exception | None:
        """The passing trouble that the last call about a job met, whoever made it; None after an answer."""
        known = self._known.get(name)
        return None if known is None else known.refusal

    def _distance(self, known: _Known) -> float:
        return self.pace.spread(self.pace.describe_seconds * min(2 ** max(0, known.refusals - 1), _LONGEST_BACKOFF))

    @staticmethod
    def _remembered(name: str, known: _Known, now: float) -> dict[str, Any]:
        if known.absent is not None:
            raise known.absent
        if known.description is None:
            raise NotYet(name, known.due - now, known.refusal)
        return known.description


_Place = tuple[str, str | None, Pace | None]
_shared: weakref.WeakKeyDictionary[Any, dict[_Place, PacedJobs]] = weakref.WeakKeyDictionary()
"""By the caller's session: nobody asks with another's credentials, and what is known goes when the session does."""
_sharing = threading.Lock()


def paced_jobs(connection: Connection, pace: Pace | None = None) -> PacedJobs:
    """The one of the connection's session, account, region and endpoint, so that its followers share answers."""
    place = (connection.environment.key_arn, connection.endpoint_url, pace)
    with _sharing:
        of_session = _shared.setdefault(connection.caller, {})
        if place not in of_session:
            chosen = pace or (LOCAL_PACE if connection.endpoint_url is not None else Pace())
            of_session[place] = PacedJobs(connection.once.client("sagemaker"), chosen)
        return of_session[place]
