"""One job as it is told: its log, its numbers, its end."""

from __future__ import annotations

import itertools
import json
from typing import Any, ClassVar

import pytest

from stepforge.following.follow import JobEnd, Out, Survivor
from stepforge.following.jobs_log import Estimator, LogTail
from stepforge.following.pace import PacedJobs
from stepforge.following.views import JobView, run_html
from stepforge.jobs import JobState, JobSteps, Narrator
from stepforge.machines.attempts import ending, job_failure

from .following_fakes import JOB, Clock, Connection, SageMaker, job, pace, throttled, waited


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
