"""Follow what runs, through whatever passes: throttling, 5xx, cut or endless connections, credentials that expire.

A follower asks in small steps that can each be taken again. A step that meets passing trouble is told as `paused`,
waited out with jitter, and told as `resumed` when an answer comes. Nothing here changes what runs.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge.absence import is_absent
from stepforge.connection import Connection, command
from stepforge.errors import EnvironmentUnavailable, UnknownName
from stepforge.following.pace import NotYet, Pace, PacedJobs
from stepforge.machines.attempts import Ending, ending
from stepforge.patience import hint, trouble

logger = logging.getLogger(__name__)
_LONGEST_PAUSE = 60.0
_WHY = {
    "throttled": "AWS asks to call later",
    "unavailable": "no answer came",
    "credentials": "the credentials have expired",
}


@dataclass(frozen=True)
class RunEvent:
    """What a follower yields. `progress` carries what the job printed: step, steps, reward and so on.

    `stage` and `done` say whether the job is `adopted`: it was there before the run. Of one that was Completed by then
    nothing is between them. `state` is a step of SageMaker's (Downloading, Training, Interrupted), `paused` and
    `resumed` are about the follower: what it follows goes on.
    """

    kind: Literal["stage", "waits", "state", "progress", "done", "log", "paused", "resumed"]
    stage: str
    job: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Out = deque[RunEvent]


@dataclass
class Survivor:
    """What becomes of trouble: told, waited out, given up. `come_back` is the command that follows again."""

    connection: Connection
    pace: Pace
    come_back: str

    def __post_init__(self) -> None:
        self._answered = self.pace.clock()
        self._refusals = 0
        self._last: Exception | None = None
        self._renewed_at = float("-inf")

    def events(self, step: Callable[[Out], bool]) -> Iterator[RunEvent]:
        """Take steps until one says that it was the last: what `step` appends, also from before it failed.

        Raises EnvironmentUnavailable where nothing answered for the pace's `give_up_seconds`.
        """
        out = Out()
        while True:
            before = self.connection.once.answers
            pause = self.pace.spread(self.pace.logs_seconds)
            try:
                last = step(out)
            except NotYet as early:
                last, pause = False, min(pause, early.seconds)
                if early.refusal is not None:
                    # Who else follows the job has asked for both.
                    self.refused(early.refusal, out, pause=early.seconds, remembered=True)
            except Exception as raised:
                if trouble(raised) is None:
                    yield from out
                    raise
                last = False
                # A step of five calls fails more often than one of them: where some are answered, asking goes on.
                pause = self.refused(raised, out, some=self.connection.once.answers > before)
            else:
                self.answered(out)
            while out:
                yield out.popleft()
            if last:
                return
            self.pace.sleep(pause)

    def answered(self, out: Out) -> None:
        """Take an answer in; `resumed` is told where there was none before."""
        now = self.pace.clock()
        if self._refusals:
            out.append(RunEvent("resumed", "", data={"seconds": round(now - self._answered, 1)}))
        self._refusals, self._answered, self._last = 0, now, None

    def refused(
        self, error: Exception, out: Out, *, some: bool = False, pause: float | None = None, remembered: bool = False
    ) -> float:
        """Take trouble in, tell it as `paused`, and return the seconds until asking again.

        `some`: whether another call was answered meanwhile. Without `pause` it is longer after each refusal. What is
        `remembered` is told once. Raises EnvironmentUnavailable.
        """
        now = self.pace.clock()
        told, self._last = remembered and error is self._last, error
        if some:
            self._refusals, self._answered = 0, now
        self._refusals += not told
        silent = now - self._answered
        if not told and self._renews(error, now):
            chosen = 0.0
        elif silent > self.pace.give_up_seconds:
            raise EnvironmentUnavailable(
                f"{_WHY[str(trouble(error))]} for {silent:.0f} s: {error} {hint(error)} What was submitted goes on; "
                f"come back with `{self.come_back}`"
            ) from error
        elif pause is not None:
            chosen = pause
        else:
            # The first pause is as short as the distance between two looks: most troubles are over by then.
            most = max(_LONGEST_PAUSE, self.pace.logs_seconds)
            wanted = self.pace.logs_seconds * 2 ** min(max(0, self._refusals - 1), 16)
            chosen = self.pace.spread(min(most, wanted))
        if not told:
            out.append(self._paused(error, chosen, silent))
        return chosen

    def _renews(self, error: Exception, now: float) -> bool:
        """Whether the credentials had expired and are others now. Of many jobs each is refused: one asks for all."""
        if trouble(error) != "credentials" or now - self._renewed_at < self.pace.logs_seconds:
            return False
        self._renewed_at = now
        return self.connection.renew_credentials()

    @staticmethod
    def _paused(error: Exception, pause: float, silent: float) -> RunEvent:
        kind = str(trouble(error))
        data = {"trouble": kind, "reason": _WHY[kind], "error": " ".join(str(error).split())[:300]}
        return RunEvent("paused", "", data={**data, "pause_seconds": round(pause, 1), "silent_seconds": round(silent)})


@dataclass(frozen=True)
class JobEnd:
    """How a job ended, and DescribeTrainingJob's answer."""

    name: str
    ending: Ending
    description: dict[str, Any]


def wait_for(
    connection: Connection, jobs: PacedJobs, names: Iterable[str], *, told: Callable[[RunEvent], None] | None = None
) -> Iterator[JobEnd]:
    """Each job as it ends, by DescribeTrainingJob alone; trouble is survived as a follower does.

    `told` gets `paused` and `resumed`, where nothing at all is answered; without it they are warnings in the log.
    Raises UnknownName for a job that does not exist, EnvironmentUnavailable where nothing answered for the pace's
    `give_up_seconds`, and what calls raise that does not pass by itself.
    """
    pace = jobs.pace
    started = pace.clock()
    # Spread over one distance: two hundred jobs are not asked about at once, and so not refused at once.
    waiting = [(started + pace.describe_seconds * pace.random(), name) for name in dict.fromkeys(names)]
    if not waiting:
        return
    if len(waiting) == 1:
        waiting = [(started, waiting[0][1])]
    survivor = Survivor(connection, pace, command(f"watch {waiting[0][1]}", connection.name))
    heapq.heapify(waiting)
    teller = _Teller(pace, told or _log)
    while waiting:
        due, name = heapq.heappop(waiting)
        if (early := due - pace.clock()) > 0:
            pace.sleep(early)
        job, out, remembered = None, Out(), True
        try:
            job = jobs.describe_training_job(TrainingJobName=name)
            error = jobs.refusal(name)
        except NotYet as early_by:
            error = early_by.refusal
        except Exception as raised:
            if isinstance(raised, AwsError) and is_absent(raised):
                raise UnknownName("job", name, None) from raised
            if trouble(raised) is None:
                raise
            error, remembered = raised, False
        again = max(jobs.due(name), pace.clock())
        if error is not None:
            survivor.refused(error, out, pause=again - pace.clock(), remembered=remembered)
        elif job is not None:
            survivor.answered(out)
        teller.tell(out)
        if job is not None and (how := ending(job)) is not None:
            yield JobEnd(name, how, job)
        else:
            heapq.heappush(waiting, (again, name))


@dataclass
class _Teller:
    """Of many jobs a few are always refused: only a silence is told, and once in the distance of two Describes."""

    pace: Pace
    told: Callable[[RunEvent], None]

    def __post_init__(self) -> None:
        self._paused_at: float | None = None

    def tell(self, out: Out) -> None:
        now = self.pace.clock()
        for event in out:
            if event.kind == "resumed":
                told, self._paused_at = self._paused_at is not None, None
            else:
                silent = event.data["silent_seconds"] >= self.pace.describe_seconds
                due = self._paused_at is None or now - self._paused_at >= self.pace.describe_seconds
                told = due and (silent or event.data["trouble"] == "credentials")
                self._paused_at = now if told else self._paused_at
            if told:
                self.told(event)


def _log(event: RunEvent) -> None:
    if event.kind == "resumed":
        logger.warning("answers again, after %.0f s", event.data["seconds"])
    else:
        logger.warning("%s; what is waited for goes on: %s", event.data["reason"], event.data["error"])
