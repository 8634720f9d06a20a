"""A follower asks seldom, shares what it hears, and never calls an end a success that was none."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
from botocore.exceptions import ClientError

from stepforge.errors import UnknownName
from stepforge.following.pace import NotYet, PacedJobs

from .following_fakes import JOB, Clock, SageMaker, pace, throttled, waited


def test_two_hundred_jobs_under_half_of_all_calls_throttled_are_all_seen_to_their_end(clock: Clock) -> None:
    ends = {f"sft-{number:012x}-a0": 600 * number / 200 for number in range(200)}
    dice = random.Random(1)
    sagemaker = SageMaker(clock, ends, refuse=lambda _: throttled(dice.randrange(2)))
    found = {end.name: end.ending for end in waited(sagemaker, clock, ends)}
    assert found == dict.fromkeys(ends, "Completed")
    gaps = [later - earlier for at in sagemaker.asked.values() for earlier, later in itertools.pairwise(at)]
    assert len(gaps) > 1_000
    assert min(gaps) >= 30
    assert len({round(gap, 3) for gap in gaps}) > len(gaps) / 2
    assert 600 < clock.now < 600 + 600


def test_followers_of_one_process_share_one_answer_in_thirty_seconds(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {JOB: 1e9}, refuse=lambda _: None)
    jobs = PacedJobs(sagemaker, pace(clock))
    for _ in range(200):
        threads = [
            threading.Thread(target=jobs.describe_training_job, kwargs={"TrainingJobName": JOB}) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.sleep(1.5)
    asked = sagemaker.asked[JOB]
    assert len(asked) <= 10
    assert min(later - earlier for earlier, later in itertools.pairwise(asked)) >= 30


def test_an_ended_job_is_not_asked_about_again_and_a_refusal_waits_its_turn(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {JOB: 0}, refuse=lambda call: throttled(1) if call == 1 else None)
    jobs = PacedJobs(sagemaker, pace(clock))
    with pytest.raises(ClientError):
        jobs.describe_training_job(TrainingJobName=JOB)
    with pytest.raises(NotYet):
        jobs.describe_training_job(TrainingJobName=JOB)
    clock.sleep(40)
    for _ in range(5):
        assert jobs.describe_training_job(TrainingJobName=JOB)["TrainingJobStatus"] == "Completed"
        clock.sleep(1_000)
    assert sagemaker.calls == 2


def test_an_answer_is_as_old_as_the_call_that_brought_it_and_a_refused_call_makes_it_no_younger(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {JOB: 1e9}, refuse=lambda call: throttled(1) if call == 2 else None)
    jobs = PacedJobs(sagemaker, pace(clock))
    assert jobs.as_of(JOB) == float("-inf")
    asked = clock()
    jobs.describe_training_job(TrainingJobName=JOB)
    clock.sleep(40)
    with pytest.raises(ClientError):
        jobs.describe_training_job(TrainingJobName=JOB)
    assert jobs.as_of(JOB) == asked
    clock.sleep(100)
    jobs.describe_training_job(TrainingJobName=JOB)
    assert jobs.as_of(JOB) > asked + 100


def test_a_job_that_is_not_there_is_unknown(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {}, refuse=lambda _: None)
    with pytest.raises(UnknownName, match=JOB):
        list(waited(sagemaker, clock, [JOB]))
