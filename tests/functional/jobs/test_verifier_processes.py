"""A user's verifier may hang in C, end, leak, print or lie: the caller gets a verdict on every completion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.functional.jobs.conftest import World
from tests.support import forked
from tests.support.job_folders import environment, job_folder, opened

from stepforge.contracts.jobs import Plugin
from stepforge.contracts.manifests import sha256_of, write_manifest
from stepforge.contracts.work import EvaluateWork, LocalModel, RlvrWork
from stepforge.errors import InvalidInput
from stepforge_jobs.domains import judging
from stepforge_jobs.domains.judging import WorkerJudge
from stepforge_jobs.evaluation.evaluate import judging_told
from stepforge_jobs.testing import CountingDomain

RULES = """
import ctypes, json, os, random, re, signal, subprocess, sys

leaked = []

class Mute(Exception):
    def __str__(self):
        raise ValueError("cannot be told")

def check(record, completion):
    what, _, value = completion.partition(" ")
    if what == "hang":  # in C, with the interpreter's lock: no signal handler of Python's is called
        re.match(r"(a+)+b", "a" * 60)
    if what == "child":
        pid = subprocess.Popen(["sleep", "300"]).pid
        open(value, "w").write(str(pid))
        re.match(r"(a+)+b", "a" * 60)
    if what == "end":
        os._exit(int(value))
    if what == "segfault":
        ctypes.string_at(0)
    if what == "leave":
        sys.exit(0)
    if what == "interrupt":
        raise KeyboardInterrupt("by hand")
    if what == "base":
        raise BaseException("no Exception")
    if what == "leak":
        leaked.append(b"x" * int(value))
    if what == "print":
        print(json.dumps({"call": 0, "verdict": {"accepted": True, "reward": 1, "partial": 1}}))
        os.write(1, b"noise")
        os.write(2, b"noise")
    if what == "forge":
        for descriptor in [int(name) for name in os.listdir('/dev/fd') if int(name) > 2]:
            try:
                os.write(descriptor, b'{"verdict": 1}' + b"\\n")
            except OSError:
                pass
    if what == "draw":
        return random.random()
    if what == "pid":
        return {"x": os.getpid()}[value]
    if what == "seven":
        return 7
    if what == "power":
        return 10**400
    if what == "book":
        return "x" * 1_000_000
    if what == "surrogate":
        raise ValueError(json.loads('"half \\\\ud800"'))
    if what == "shout":
        raise ValueError("x" * 1_000_000)
    if what == "mute":
        raise Mute()
    if what == "unmade":
        from stepforge.contracts.rewards import Verdict
        return Verdict.model_construct(accepted=True, reward=float("nan"), partial=1.0)
    return what == "right"
"""
RECORD = CountingDomain().record("train", 0, seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "isolated_rules.py").write_text(RULES)
    return tmp_path


@pytest.fixture
def judge(folder: Path) -> Iterator[Callable[..., WorkerJudge]]:
    made: list[WorkerJudge] = []

    def make(target: str = "isolated_rules:check", **more: Any) -> WorkerJudge:
        begin = {"folder": str(folder), "domain": None, "verifier": target, "name": "mine", "version": "1"}
        made.append(WorkerJudge(begin, **{"seconds": 0.4, **more}))
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


def reasons(judge: WorkerJudge, *texts: str) -> list[str]:
    return [verdict.reason for verdict in judge.verdicts([(RECORD, text) for text in texts])]


def process(judge: WorkerJudge) -> int:
    """Number of the process that answers now."""
    (verdict,) = judge.verdicts([(RECORD, "pid y")])
    assert verdict.reason == "verifier: KeyError: 'y'"
    return judge._workers[0]._process.pid


def test_a_verifier_that_fails_eight_times_in_a_row_is_warned_of_once(judge: Callable[..., WorkerJudge]) -> None:
    said: list[str] = []
    one = judge(warn=said.append)
    for texts in (["pid y"] * 7, ["right"], ["pid y"] * 7):
        reasons(one, *texts)
    assert said == []
    reasons(one, *["pid y"] * 20)
    assert said == ["the verifier has failed 8 times in a row, the last by verifier: KeyError: 'y'"]


def test_who_waits_is_told_of_every_verdict_and_of_those_in_which_the_verifier_failed(
    judge: Callable[..., WorkerJudge],
) -> None:
    heard: list[tuple[int, int]] = []
    asked = [(RECORD, text) for text in ("right", "pid y", "wrong", "pid y")]
    judge(seconds=10.0).verdicts(asked, told=lambda *given: heard.append(given))
    assert heard == [(1, 0), (2, 1), (3, 1), (4, 2)]


def test_an_evaluation_says_how_far_judging_is_where_the_verifier_fails(
    judge: Callable[..., WorkerJudge], world: World, tmp_path: Path
) -> None:
    inputs = {name: world.inputs[name] for name in ("data", "plugin")}
    job_folder(tmp_path / "job", EvaluateWork(), model=world.base, **inputs)
    for texts, said in ((("right", "wrong"), []), (("right", "pid y"), [(2, 2, 1)])):
        job = opened(tmp_path / "job")
        job.progress.stream = StringIO()
        told = judging_told(job, "test_new greedy judged")
        asked = [(RECORD, text) for text in texts]
        judge(seconds=10.0).verdicts(asked, told=lambda done, failed, told=told: told(done, 2, failed))
        lines = [json.loads(line) for line in job.progress.stream.getvalue().splitlines()]
        assert [(line["step"], line["steps"], line["verifier_failures"]) for line in lines] == said


def test_what_hangs_in_c_is_killed_and_the_next_call_has_its_verdict(judge: Callable[..., WorkerJudge]) -> None:
    one = judge()
    before = process(one)
    assert reasons(one, "right", "hang", "right") == [
        "",
        "timeout: the verifier took more than 0.4 s and was killed",
        "",
    ]
    assert not psutil.pid_exists(before)
    assert process(one) != before


def test_what_the_verifier_started_is_killed_with_it(judge: Callable[..., WorkerJudge], tmp_path: Path) -> None:
    (reason,) = reasons(judge(), f"child {tmp_path / 'pid'}")
    assert reason.startswith("timeout: ")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the verifier's own child is still running"
        time.sleep(0.02)


def test_a_process_that_ends_refuses_and_says_how(judge: Callable[..., WorkerJudge]) -> None:
    assert reasons(judge(seconds=5.0), "end 3", "segfault", "leave", "right") == [
        "crash: the verifier's process ended with exit code 3",
        "crash: the verifier's process was ended by SIGSEGV",
        "verifier: SystemExit: 0",
        "",
    ]


def test_whatever_is_raised_refuses_and_the_same_process_goes_on(judge: Callable[..., WorkerJudge]) -> None:
    one = judge(seconds=5.0)
    before = process(one)
    assert reasons(one, "interrupt", "base", "right") == [
        "verifier: KeyboardInterrupt: by hand",
        "verifier: BaseException: no Exception",
        "",
    ]
    assert process(one) == before


def test_an_error_whose_text_is_endless_unwritable_or_none_is_a_refusal_that_can_be_written(
    judge: Callable[..., WorkerJudge],
) -> None:
    found = reasons(judge(seconds=5.0), "surrogate", "shout", "mute", "right")
    assert found[0] == "verifier: ValueError: half ?"
    assert found[1].startswith("verifier: ValueError: xxx")
    assert len(found[1]) < 1_100
    assert found[2:] == ["verifier: Mute: its text cannot be read", ""]


def test_memory_has_a_limit_and_a_worker_that_grew_is_replaced(judge: Callable[..., WorkerJudge]) -> None:
    one = judge(seconds=10.0, memory_bytes=512 << 20)
    assert reasons(one, f"leak {600 << 20}") == ["verifier: MemoryError: "]
    before = process(one)
    one.verdicts([(RECORD, f"leak {40 << 20}")])
    assert process(one) == before
    one.verdicts([(RECORD, f"leak {100 << 20}")])
    assert process(one) != before


def test_what_it_prints_reaches_nothing_and_a_forged_answer_is_a_crash(
    judge: Callable[..., WorkerJudge], capfd: pytest.CaptureFixture[str]
) -> None:
    one = judge(seconds=5.0)
    first, second, third = one.verdicts([(RECORD, text) for text in ("print", "forge", "right")])
    assert (first.accepted, first.reason) == (False, "")
    assert second.reason.startswith("crash: ")
    assert third.accepted
    assert capfd.readouterr() == ("", "")


def test_verdicts_keep_their_order_and_do_not_depend_on_the_number_of_workers(
    judge: Callable[..., WorkerJudge],
) -> None:
    texts = [f"draw {n}" for n in range(7)]
    texts[2:2] = ["hang", "right", "end 1"]
    one, three = (judge(workers=count).verdicts([(RECORD, text) for text in texts]) for count in (1, 3))
    assert one == three
    assert [verdict.accepted for verdict in one].index(True) == 3
    assert len({verdict.reward for verdict in one}) == 9


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("isolated_rules:check", "seven", "a verifier returned 7"),
        ("isolated_rules:check", "power", "a verifier returned 1000+[.0]*: it must return a Verdict"),
        ("isolated_rules:check", "book", "a verifier returned 'x{5,20}[.]{3}x*': it must return a Verdict"),
        ("isolated_rules:check", "unmade", "returned a Verdict that is none: field 'reward': .*finite"),
        ("isolated_rules:chekc", "right", "'isolated_rules:chekc' cannot be imported: .*chekc"),
        ("broken_rules:check", "right", "'broken_rules:check' cannot be imported: ZeroDivisionError"),
        ("ending_rules:check", "right", "'ending_rules:check' cannot be imported: ended with exit code 4"),
    ],
)
def test_a_users_mistake_is_an_error_that_names_it(
    judge: Callable[..., WorkerJudge], folder: Path, target: str, text: str, message: str
) -> None:
    (folder / "broken_rules.py").write_text("1 / 0\n")
    (folder / "ending_rules.py").write_text("import os\nos._exit(4)\n")
    with pytest.raises(InvalidInput, match=message):
        judge(target, seconds=5.0).verdicts([(RECORD, text)])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends a dead parent's children on Linux")
def test_a_worker_that_hangs_ends_with_a_caller_that_is_killed(folder: Path) -> None:
    begin = {"folder": str(folder), "domain": None, "verifier": "isolated_rules:check", "name": "m", "version": "1"}
    script = (
        "from stepforge_jobs.domains.judging import WorkerJudge\n"
        "from stepforge_jobs.testing import CountingDomain\n"
        f"judge = WorkerJudge({begin!r}, seconds=600)\n"
        "record = CountingDomain().record('train', 0, seed=0)\n"
        "judge.verdicts([(record, 'right')])\n"
        "print(judge._workers[0]._process.pid, flush=True)\n"
        "judge.verdicts([(record, 'hang')])\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(folder), stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    worker = psutil.Process(int(caller.stdout.readline()))
    time.sleep(0.2)
    assert worker.is_running()
    caller.kill()
    caller.communicate(timeout=10)
    worker.wait(timeout=10)


SOMETIMES = """
import os, re

def check(record, completion):
    words = completion.split()
    right = len(words) > 1 and words[0] == "n" + str((record.scenario["start"] + 1) % 30)
    if not right and words and sum(map(ord, words[0])) % 3 == 0:
        {wrong}
    return right
"""


def test_training_learns_the_same_from_a_verifier_that_hangs_as_from_one_that_refuses(
    world: World, tmp_path: Path
) -> None:
    work = RlvrWork(steps=3, batch_prompts=8, group_size=4, max_new_tokens=8, checkpoint_every=3, held_out=0)
    weights, metrics = {}, {}
    for name, wrong in {
        "refuses": "return False",
        "hangs": 're.match(r"(a+)+b", "a" * 60)',
        "ends": "os._exit(9)",
    }.items():
        plugin = tmp_path / f"plugin-{name}"
        plugin.mkdir()
        (plugin / "sometimes.py").write_text(SOMETIMES.format(wrong=wrong))
        write_manifest(plugin, "plugin")
        inputs = {**world.inputs, "plugin": plugin}
        code = Plugin(verifier="sometimes:check")
        job_folder(tmp_path / name, work, start=LocalModel(), model=world.base, code=code, **inputs)

        def hurry() -> None:
            judging.VERIFIER_SECONDS = 0.2

        assert forked.run(tmp_path / name, prepare=hurry) == 0, (tmp_path / name / "log.txt").read_text()[-2000:]
        model = tmp_path / name / "model"
        weights[name] = sha256_of(model / "model.safetensors")
        metrics[name] = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert weights["hangs"] == weights["ends"] == weights["refuses"]
    assert {row["verifier_failures"] for row in metrics["refuses"]} == {0.0}
    failed = [row["verifier_failures"] for row in metrics["hangs"]]
    assert max(failed) > 0
    assert failed == [row["verifier_failures"] for row in metrics["ends"]]
    assert [row["accepted"] for row in metrics["hangs"]] == [row["accepted"] for row in metrics["refuses"]]


def test_no_worker_outlives_its_judge(judge: Callable[..., WorkerJudge]) -> None:
    with judge(workers=2) as two:
        two.verdicts([(RECORD, "right"), (RECORD, "right")])
        pids = [worker._process.pid for worker in two._workers]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIGTERM)
