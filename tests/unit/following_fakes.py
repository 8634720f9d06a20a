"""A clock, jobs that end at their time, and a connection, for tests of following."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from stepforge.following.follow import JobEnd, wait_for
from stepforge.following.pace import Pace, PacedJobs
from tests.fakes import refusal

JOB = "sft-0123456789ab-a0"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace(clock: Clock, **more: Any) -> Pace:
    return Pace(clock=clock, sleep=clock.sleep, random=random.Random(0).random, **more)


def job(status: str = "InProgress", secondary: str = "", **more: Any) -> dict[str, Any]:
    return {"TrainingJobName": JOB, "TrainingJobStatus": status, "SecondaryStatus": secondary or status, **more}


class SageMaker:
    """Describes jobs that end at their time, refuses as told, and keeps when it was asked about which."""

    def __init__(self, clock: Clock, ends: dict[str, float], *, refuse: Callable[[int], Exception | None]) -> None:
        self.clock, self.ends, self.refuse = clock, ends, refuse
        self.asked: dict[str, list[float]] = {}
        self.calls = 0

    def describe_training_job(self, *, TrainingJobName: str) -> dict[str, Any]:
        self.asked.setdefault(TrainingJobName, []).append(self.clock())
        self.calls += 1
        if (error := self.refuse(self.calls)) is not None:
            raise error
        if TrainingJobName not in self.ends:
            raise refusal("DescribeTrainingJob", "Requested resource not found.")
        return job("Completed" if self.clock() >= self.ends[TrainingJobName] else "InProgress")


def throttled(call: int) -> ClientError | None:
    return refusal("DescribeTrainingJob", "Rate exceeded", "ThrottlingException") if call % 2 else None


class Connection:
    """What a follower needs of one."""

    name, region, endpoint_url = "dev", "eu-west-1", None

    def __init__(self, renewed: Iterable[bool] = ()) -> None:
        self._renewed = iter(renewed)
        self.once: Any = SimpleNamespace(answers=0)

    def renew_credentials(self) -> bool:
        return next(self._renewed, False)


def waited(sagemaker: Any, clock: Clock, names: Iterable[str], connection: Any = None, **more: Any) -> Iterator[JobEnd]:
    of: Any = connection or Connection()
    return wait_for(of, PacedJobs(sagemaker, pace(clock)), names, **more)
