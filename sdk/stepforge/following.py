"""Follow what runs, through whatever passes: throttling, 5xx, cut or endless connections, credentials that expire.

A follower asks in small steps that can each be taken again. A step that meets passing trouble is told as `paused`,
waited out with jitter, and told as `resumed` when an answer comes. Nothing here changes what runs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from botocore.exceptions import ClientError as AwsError

from stepforge.attempts import Ending, ending, is_absent
from stepforge.connection import Connection
from stepforge.errors import EnvironmentUnavailable, UnknownName
from stepforge.pace import NotYet, Pace, PacedJobs
from stepforge.patience import hint, trouble

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
    """Takes steps until one says that it was the last. `come_back` is the command that follows again."""

    connection: Connection
    pace: Pace
    come_back: str

    def events(self, step: Callable[[Out], bool]) -> Iterator[RunEvent]:
        """Events that `step` appends, also those from before it failed.

        Raises EnvironmentUnavailable where nothing answered for the pace's `give_up_seconds`.
        """
        out, refusals, answered = Out(), 0, self.pace.clock()
        while True:
            before = self.connection.once.answers
            asked, error, pause = True, None, self.pace.spread(self.pace.logs_seconds)
            try:
                last = step(out)
            except NotYet as early:
                asked, last, pause = False, False, min(pause, early.seconds)
            except Exception as raised:
                if trouble(raised) is None:
                    yield from out
                    raise
                last, error = False, raised
            now = self.pace.clock()
            if error is None and asked:
                if refusals:
                    out.append(RunEvent("resumed", "", data={"seconds": round(now - answered, 1)}))
                refusals, answered = 0, now
            elif error is not None:
                # A step of five calls fails more often than one of them: where some are answered, asking goes on.
                some = self.connection.once.answers > before
                refusals, answered = (1, now) if some else (refusals + 1, answered)
                pause = self._pause(error, refusals, now - answered)
                out.append(self._paused(error, pause, now - answered))
            while out:
                yield out.popleft()
            if last:
                return
            self.pace.sleep(pause)

    def _pause(self, error: Exception, refusals: int, silent: float) -> float:
        if trouble(error) == "credentials" and self.connection.renew_credentials():
            return 0.0
        if silent > self.pace.give_up_seconds:
            raise EnvironmentUnavailable(
                f"{_WHY[str(trouble(error))]} for {silent:.0f} s: {error} {hint(error)} What was submitted goes on; "
                f"come back with `{self.come_back}`"
            ) from error
        # The first pause is as short as the distance between two looks: most troubles are over by then.
        most = max(_LONGEST_PAUSE, self.pace.logs_seconds)
        return self.pace.spread(min(most, self.pace.logs_seconds * 2 ** min(refusals - 1, 16)))

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


def wait_for(jobs: PacedJobs, names: Iterable[str]) -> Iterator[JobEnd]:
    """Each job as it ends, by DescribeTrainingJob alone; refusals and 5xx are waited out as long as it takes.

    Raises UnknownName for a job that does not exist, and what calls raise that does not pass by itself.
    """
    pace = jobs.pace
    started = pace.clock()
    # Spread over one distance: two hundred jobs are not asked about at once, and so not refused at once.
    waiting = [(started + pace.describe_seconds * pace.random(), name) for name in dict.fromkeys(names)]
    if len(waiting) == 1:
        waiting = [(started, waiting[0][1])]
    heapq.heapify(waiting)
    while waiting:
        due, name = heapq.heappop(waiting)
        if (early := due - pace.clock()) > 0:
            pace.sleep(early)
        try:
            job = jobs.describe_training_job(TrainingJobName=name)
        except NotYet as early_by:
            heapq.heappush(waiting, (pace.clock() + early_by.seconds, name))
            continue
        except Exception as error:
            if isinstance(error, AwsError) and is_absent(error):
                raise UnknownName("job", name, []) from error
            if trouble(error) is None:
                raise
            heapq.heappush(waiting, (jobs.due(name), name))
            continue
        if (how := ending(job)) is not None:
            yield JobEnd(name, how, job)
        else:
            heapq.heappush(waiting, (jobs.due(name), name))
