"""A follower asks seldom, survives what passes, says what it does, and never calls an end a success that was none."""

from __future__ import annotations

import gc
import itertools
import json
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError

from stepforge.attempts import ending, job_failure
from stepforge.errors import EnvironmentUnavailable, UnknownName
from stepforge.following import JobEnd, Out, RunEvent, Survivor, wait_for
from stepforge.jobs import JobState, JobSteps, Narrator
from stepforge.jobs_log import Estimator, LogTail
from stepforge.pace import NotYet, Pace, PacedJobs, paced_jobs
from stepforge.patience import SlowAnswer
from stepforge.views import JobView, run_html
from tests.fakes import refusal

JOB = "sft-0123456789ab-a0"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


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


def waited(sagemaker: Any, clock: Clock, names: Iterable[str], connection: Any = None, **more: Any) -> Iterator[JobEnd]:
    of: Any = connection or Connection()
    return wait_for(of, PacedJobs(sagemaker, pace(clock)), names, **more)


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


# ── Troubles ─────────────────────────────────────────────────────────────────────────────────────


class Connection:
    """What a follower needs of one."""

    name, region, endpoint_url = "dev", "eu-west-1", None

    def __init__(self, renewed: Iterable[bool] = ()) -> None:
        self._renewed = iter(renewed)
        self.once: Any = SimpleNamespace(answers=0)

    def renew_credentials(self) -> bool:
        return next(self._renewed, False)


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
    with pytest.raises(EnvironmentUnavailable, match=rf"renew them.*goes on; come back with `stepforge watch {JOB}`"):
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
    with pytest.raises(EnvironmentUnavailable, match=rf"renew them.*goes on; come back with `stepforge watch {JOB}`"):
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


# ── One job ──────────────────────────────────────────────────────────────────────────────────────


class Logs:
    """Streams of lines, in pages of two."""

    class exceptions:
        class ResourceNotFoundException(Exception):
            pass

    def __init__(self) -> None:
        self.streams: dict[str, list[str]] | None = None

    def describe_log_streams(self, **_: Any) -> dict[str, Any]:
        if self.streams is None:
            raise self.exceptions.ResourceNotFoundException
        return {"logStreams": [{"logStreamName": name} for name in self.streams]}

    def get_log_events(self, *, logStreamName: str, nextToken: str = "0", **_: Any) -> dict[str, Any]:
        assert self.streams is not None
        start = int(nextToken)
        lines = self.streams[logStreamName][start : start + 2]
        stamps = [{"timestamp": 2_000 * (start + place), "message": line} for place, line in enumerate(lines)]
        return {"events": stamps, "nextForwardToken": str(start + len(lines))}


def test_a_log_that_is_not_there_yet_is_empty_and_each_line_comes_once() -> None:
    logs = Logs()
    tail = LogTail(logs, JOB)
    assert list(tail.read()) == []
    logs.streams = {f"{JOB}/algo-1": ["a", "b", "c"]}
    assert [line.text for line in tail.read()] == ["a", "b", "c"]
    logs.streams[f"{JOB}/algo-1"].append("d")
    logs.streams[f"{JOB}/algo-2"] = ["e"]
    assert [line.text for _ in range(6) for line in tail.read()] == ["d", "e"]


def test_a_page_without_lines_is_not_the_end_of_a_log() -> None:
    class Gappy(Logs):
        pages: ClassVar = {
            "0": ([], "1"),
            "1": (["the last words: CUDA out of memory"], "2"),
            "2": ([], "3"),
            "3": ([], "3"),
        }
        asked = 0

        def get_log_events(self, *, nextToken: str = "0", **_: Any) -> dict[str, Any]:
            self.asked += 1
            lines, following = self.pages[nextToken]
            return {"events": [{"timestamp": 0, "message": m} for m in lines], "nextForwardToken": following}

    logs = Gappy()
    logs.streams = {f"{JOB}/algo-1": []}
    tail = LogTail(logs, JOB)
    assert [line.text for line in tail.read()] == ["the last words: CUDA out of memory"]
    assert list(tail.read()) == []
    assert logs.asked == 5


def test_pages_without_lines_that_never_end_do_not_hold_a_reader() -> None:
    class Endless(Logs):
        asked = 0

        def get_log_events(self, **_: Any) -> dict[str, Any]:
            self.asked += 1
            return {"events": [], "nextForwardToken": str(self.asked)}

    logs = Endless()
    logs.streams = {f"{JOB}/algo-1": []}
    assert list(LogTail(logs, JOB).read()) == []
    assert logs.asked == 100


def progress(step: int, **more: float) -> str:
    return json.dumps({"event": "progress", "stage": "sft", "step": step, "steps": 10, **more})


def test_a_job_is_told_with_its_numbers_and_remaining_time_to_its_end(clock: Clock) -> None:
    logs, connection = Logs(), Connection()
    connection.once.client = lambda _: logs
    lines = [progress(1, reward=0.5), "text", progress(3, reward=0.6, kl=0.1, tokens_per_second=900.0)]
    logs.streams = {f"{JOB}/algo-1": lines}
    sagemaker = SageMaker(clock, {JOB: 50}, refuse=lambda call: throttled(call) if call == 2 else None)
    jobs = PacedJobs(sagemaker, pace(clock))
    told = list(Survivor(connection, jobs.pace, "again").events(JobSteps(connection, jobs, JOB)))  # type: ignore[arg-type]
    kinds = [event.kind for event in told]
    assert kinds[:4] == ["stage", "state", "progress", "log"]
    assert kinds[-1] == "done"
    last = [event.data for event in told if event.kind == "progress"][-1]
    assert (last["remaining_seconds"], last["remaining_basis"]) == (14.0, "2 s a step over the last 2 steps")
    assert told[0].data["links"]["cloudwatch"].startswith("https://eu-west-1.console.aws.amazon.com/cloudwatch/")
    asked = sagemaker.asked[JOB]
    assert min(later - earlier for earlier, later in itertools.pairwise(asked)) >= 30


@pytest.mark.parametrize(("ends", "lines"), [(0, 0), (100, 1)], ids=["done before", "running"])
def test_an_adopted_job_is_told_as_adopted_and_one_that_was_done_without_its_log(
    clock: Clock, ends: float, lines: int
) -> None:
    logs, connection = Logs(), Connection()
    connection.once.client = lambda _: logs
    logs.streams = {f"{JOB}/algo-1": ["text"]}
    jobs = PacedJobs(SageMaker(clock, {JOB: ends}, refuse=lambda _: None), pace(clock))
    steps = JobSteps(connection, jobs, JOB, adopted=True)  # type: ignore[arg-type]
    told = list(Survivor(connection, jobs.pace, "again").events(steps))  # type: ignore[arg-type]
    assert [event.data["adopted"] for event in told if event.kind in ("stage", "done")] == [True, True]
    assert sum(event.kind == "log" for event in told) == lines


def test_remaining_time_begins_anew_where_a_job_went_back_to_its_checkpoint() -> None:
    estimator = Estimator()
    assert estimator.add(40, 100, at=0.0) is None
    fast = estimator.add(50, 100, at=10.0)
    assert fast is not None
    assert fast.seconds == 50.0
    assert estimator.add(45, 100, at=100.0) is None
    slow = estimator.add(50, 100, at=120.0)
    assert slow is not None
    assert slow.seconds == 200.0


ENDINGS = [
    (job("Completed"), "Completed", 0),
    (job("Failed", FailureReason="AlgorithmError: x"), "Failed", 4),
    (job("Stopped"), "Stopped", 7),
    (job("Stopped", "MaxRuntimeExceeded"), "MaxRuntimeExceeded", 8),
    (job("Completed", "MaxRuntimeExceeded"), "MaxRuntimeExceeded", 8),
    (job("Stopped", "MaxWaitTimeExceeded"), "MaxWaitTimeExceeded", 9),
    (job("Stopped", "Interrupted"), "Interrupted", 10),
    (job("Completed", "Interrupted"), "Interrupted", 10),
]


@pytest.mark.parametrize(("described", "how", "code"), ENDINGS)
def test_every_ending_has_its_own_word_and_exit_code(described: dict[str, Any], how: str, code: int) -> None:
    assert ending(described) == how
    if code:
        assert job_failure(described).exit_code == code
    out = Out()
    narrator = Narrator(Connection(), LogTail(Logs(), JOB), "sft", JOB)  # type: ignore[arg-type]
    narrator.tell_end(JobState(JOB, described), out, adopted=False)
    assert out[0].data["status"] == how
    assert bool(out[0].data.get("advice")) is bool(code)
    assert ending(job("InProgress", "Interrupted")) is None


def test_a_view_escapes_what_a_job_says_of_itself() -> None:
    view = JobView(
        name=JOB,
        status="Failed",
        step=3,
        steps=10,
        remaining_seconds=14.0,
        remaining_basis="2 s a step",
        numbers={"reward": 0.5},
        category="algorithm",
        reason="<script>alert(1)</script>",
        advice="mend it",
        links={"cloudwatch": "https://x/?a=1&b='2'"},
    )
    page = view._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<progress value='3' max='10'>" in page
    assert "href='https://x/?a=1&amp;b=&#x27;2&#x27;'" in page
    assert "remaining: 14 s (2 s a step)" in str(view)
    run = run_html("train-r0", "RUNNING", [("sft", JOB, "Failed", "algorithm: <b>")], {})
    assert "algorithm: &lt;b&gt;" in run


def test_ends_carry_what_the_caller_needs(clock: Clock) -> None:
    sagemaker = SageMaker(clock, {JOB: 0}, refuse=lambda _: None)
    assert list(waited(sagemaker, clock, [JOB, JOB])) == [JobEnd(JOB, "Completed", job("Completed"))]
