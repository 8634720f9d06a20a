"""What passes is told, waited for and told again; what does not is raised."""

from __future__ import annotations

import gc
import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepforge.errors import EnvironmentUnavailable
from stepforge.following.follow import Out, RunEvent, Survivor
from stepforge.following.pace import PacedJobs, paced_jobs
from stepforge.patience import SlowAnswer
from tests.fakes import refusal

from .following_fakes import JOB, Clock, Connection, SageMaker, pace, throttled, waited


def events(clock: Clock, errors: list[Exception | None], connection: Any = None, **more: Any) -> list[RunEvent]:
    """Of steps that raise these one after the other, and then end."""
    steps = iter(errors)

    def step(out: Out) -> bool:
        error = next(steps, StopIteration)
        if error is StopIteration:
            out.append(RunEvent("done", "sft", JOB))
            return True
        if isinstance(error, Exception):
            raise error
        return False

    of: Any = connection or Connection()
    return list(Survivor(of, pace(clock, **more), f"stepforge watch {JOB}").events(step))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal("X", "Rate exceeded", "ThrottlingException"), "throttled"),
        (refusal("X", "sorry", "InternalFailure"), "unavailable"),
        (SlowAnswer("X: no whole answer in 20 s"), "unavailable"),
        (refusal("X", "expired", "ExpiredTokenException"), "credentials"),
    ],
    ids=["throttled", "5xx", "slow", "expired"],
)
def test_what_passes_is_told_waited_for_and_told_again(clock: Clock, error: Exception, kind: str) -> None:
    told = events(clock, [None, error, error, error])
    assert [event.kind for event in told] == ["paused", "paused", "paused", "done", "resumed"]
    assert {event.data["trouble"] for event in told[:3]} == {kind}
    pauses = [event.data["pause_seconds"] for event in told[:3]]
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses))


def test_credentials_that_can_be_renewed_cost_no_pause(clock: Clock) -> None:
    expired = refusal("X", "expired", "ExpiredTokenException")
    told = events(clock, [expired], Connection([True]))
    assert [event.kind for event in told] == ["paused", "done", "resumed"]
    assert clock.now == 0


def test_credentials_are_waited_for_until_somebody_has_logged_in(clock: Clock) -> None:
    expired = refusal("X", "expired", "ExpiredTokenException")
    told = events(clock, [expired] * 8, Connection([False] * 7 + [True]))
    assert [event.kind for event in told] == ["paused"] * 8 + ["done", "resumed"]
    assert clock.now > 100


def test_an_hour_without_an_answer_ends_the_follower_with_the_way_back(clock: Clock) -> None:
    expired = refusal("X", "expired", "ExpiredTokenException")
    with pytest.raises(EnvironmentUnavailable, match=f"renew them.*; come back with `stepforge watch {JOB}`"):
        events(clock, [expired] * 1_000)
    assert 3_600 < clock.now < 3_800


def test_a_step_of_which_a_part_is_answered_does_not_wear_patience_out(clock: Clock) -> None:
    connection, steps = Connection(), iter(range(2_000))

    def step(out: Out) -> bool:
        connection.once.answers += 1
        if next(steps) < 1_999:
            raise refusal("X", "Rate exceeded", "ThrottlingException")
        return True

    told = list(Survivor(connection, pace(clock), "again").events(step))  # type: ignore[arg-type]
    assert len(told) == 2_000
    assert max(event.data.get("pause_seconds", 0) for event in told) <= 6


def test_what_does_not_pass_is_raised_after_what_was_read(clock: Clock) -> None:
    def step(out: Out) -> bool:
        out.append(RunEvent("log", "sft", JOB, {"line": "the last one"}))
        raise refusal("X", "no", "AccessDeniedException")

    told = Survivor(Connection(), pace(clock), "again").events(step)  # type: ignore[arg-type]
    assert next(told).data == {"line": "the last one"}
    with pytest.raises(ClientError, match="AccessDenied"):
        next(told)
    assert clock.now == 0


def expired(_: int = 0) -> ClientError:
    return refusal("DescribeTrainingJob", "expired", "ExpiredTokenException")


def test_who_waits_for_many_renews_credentials_says_so_and_goes_on(clock: Clock) -> None:
    logged_in: list[float] = []

    class Login(Connection):
        def renew_credentials(self) -> bool:
            logged_in.append(clock())
            return len(logged_in) == 5

    sagemaker = SageMaker(clock, {JOB: 0, "b": 0}, refuse=lambda _: None if len(logged_in) >= 5 else expired())
    told: list[RunEvent] = []
    ends = list(waited(sagemaker, clock, [JOB, "b"], Login(), told=told.append))
    assert {end.name for end in ends} == {JOB, "b"}
    assert [event.kind for event in told] == ["paused"] * (len(told) - 1) + ["resumed"]
    assert told[0].data["trouble"] == "credentials"
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(logged_in))


def test_who_waits_gives_up_after_an_hour_without_an_answer(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {}, refuse=expired)
    with pytest.raises(EnvironmentUnavailable, match=f"renew them.*; come back with `stepforge watch {JOB} --env dev`"):
        list(waited(sagemaker, clock, [JOB, "b"]))
    assert 3_600 < clock.now < 3_800


def test_a_silence_is_a_warning_in_the_log_and_a_few_refusals_of_many_are_not(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    silent = range(40, 90)
    sagemaker = SageMaker(
        clock, {f"j{n}": 400 for n in range(20)}, refuse=lambda c: throttled(1) if c in silent else None
    )
    assert len(list(waited(sagemaker, clock, sagemaker.ends))) == 20
    assert 1 <= sum("AWS asks to call later" in line for line in caplog.messages) <= 4
    assert sum("answers again" in line for line in caplog.messages) == 1
    caplog.clear()
    few = SageMaker(clock, {f"j{n}": clock() + 400 for n in range(20)}, refuse=throttled)
    assert len(list(waited(few, clock, few.ends))) == 20
    assert len(caplog.messages) <= 4


def test_a_follower_beside_one_who_waits_says_what_the_others_calls_meet_and_gives_up(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {}, refuse=expired)
    jobs = PacedJobs(sagemaker, pace(clock))
    told: list[RunEvent] = []

    def other_first(out: Out) -> bool:
        if clock() >= jobs.due(JOB):
            with pytest.raises(ClientError):
                jobs.describe_training_job(TrainingJobName=JOB)
        jobs.describe_training_job(TrainingJobName=JOB)
        return True

    survivor = Survivor(Connection(), jobs.pace, f"stepforge watch {JOB}")  # type: ignore[arg-type]

    def follow() -> None:
        for event in survivor.events(other_first):
            told.append(event)

    with pytest.raises(EnvironmentUnavailable, match="renew them"):
        follow()
    assert 3_600 < clock.now < 3_700
    assert 50 < len(told) <= 125
    assert {(event.kind, event.data["trouble"]) for event in told} == {("paused", "credentials")}


def at_nowhere(key: str) -> Any:
    import boto3

    from stepforge.connection import Connection as Real

    session = boto3.Session(aws_access_key_id=key, aws_secret_access_key="s", region_name="us-east-1")
    made = Real("local", session, endpoint_url="http://127.0.0.1:9")
    made.__dict__["environment"] = SimpleNamespace(key_arn="arn:aws:kms:us-east-1:1:key/0")
    return made


def test_followers_of_two_sessions_ask_each_with_their_own_credentials() -> None:
    a, b = at_nowhere("AKIDA"), at_nowhere("AKIDB")
    keys = [jobs._sagemaker._client._request_signer._credentials.access_key for jobs in map(paced_jobs, (a, b))]
    assert keys == ["AKIDA", "AKIDB"]
    assert paced_jobs(a) is paced_jobs(a)


def test_what_is_known_of_jobs_goes_with_the_session_that_asked() -> None:
    connection = at_nowhere("AKIDC")
    known = weakref.ref(paced_jobs(connection))
    session = weakref.ref(connection.caller)
    assert known() is not None
    del connection
    gc.collect()
    assert (known(), session()) == (None, None)
