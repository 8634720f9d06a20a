"""Logs of real processes: ended by SIGTERM, forking, sharing a file or a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNDER_LOAD = """
import logging, os, sys, threading, time
from pathlib import Path
from stepforge import logs

sink, folder = sys.argv[1:]
logs.configure("tests", sink="stdout" if sink == "-" else Path(sink), max_bytes=300_000, backups=100)
logger = logging.getLogger("load")

def work(name):
    told = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT)
    number = 0
    while True:
        logger.info("%s %d", name, number, extra={"filler": "x" * 100})
        # Only now is the line accepted; as a number, so that the last one counts.
        os.pwrite(told, b"%d" % number, 0)
        number += 1
        time.sleep(0.0002)

for index in range(3):
    threading.Thread(target=work, args=(f"t{index}",), daemon=True).start()
work("main")
"""


def start(program: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "sdk")}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, **options)  # type: ignore[call-overload]


def wait_for_lines(told: Path, least: int) -> None:
    """Until the main thread has had so many lines accepted."""
    deadline = time.monotonic() + 60
    while not (told.is_file() and int(told.read_text() or 0) >= least):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sink", ["pipe", "file"])
@pytest.mark.parametrize("round_", range(2))
def test_sigterm_under_load_loses_no_line(tmp_path: Path, sink: str, round_: int) -> None:
    told, path = tmp_path / "told", tmp_path / "log"
    told.mkdir()
    process = start(UNDER_LOAD, "-" if sink == "pipe" else str(path), str(told), stdout=subprocess.PIPE)
    assert process.stdout is not None
    pipe = process.stdout
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(pipe))
    reader.start()
    wait_for_lines(told / "main", 300 + 111 * round_)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    reader.join(60)
    lines = read if sink == "pipe" else [line for file in tmp_path.glob("log*") for line in file.open("rb")]
    written = Counter(str(json.loads(line)["message"]) for line in lines)
    assert written.total() > 100
    assert set(written.values()) == {1}
    accepted = {file.name: int(file.read_text()) for file in told.iterdir()}
    missing = [
        f"{name} {n}" for name, last in accepted.items() for n in range(last + 1) if f"{name} {n}" not in written
    ]
    assert missing == []


def test_sigterm_during_a_write_at_once_loses_no_line(tmp_path: Path) -> None:
    """As in a forked child: the signal comes while the main thread itself is writing."""
    program = UNDER_LOAD.replace("backups=100)", "backups=100, queued=False)").replace("range(3)", "range(0)")
    (tmp_path / "told").mkdir()
    process = start(program.replace("time.sleep(0.0002)", "pass"), str(tmp_path / "log"), str(tmp_path / "told"))
    wait_for_lines(tmp_path / "told" / "main", 1_000)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    lines = [json.loads(line)["message"] for file in tmp_path.glob("log*") for line in file.open("rb")]
    last = int((tmp_path / "told" / "main").read_text())
    assert len(lines) == len(set(lines)) > last > 100


def test_sigterm_ends_a_process_whose_sink_hangs(tmp_path: Path) -> None:
    program = UNDER_LOAD.replace("backups=100)", "backups=100).handler._close_seconds = 1")
    process = start(program, "-", str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_lines(tmp_path / "main", 1_000)  # nobody reads: the pipe is full long before
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    assert process.stderr is not None
    assert b"log lines still wait for the sink" in process.stderr.read()


def test_a_handler_that_the_program_has_set_stays() -> None:
    program = """
import logging, os, signal, sys
from stepforge import logs
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
logs.configure("tests")
logging.info("before")
os.kill(os.getpid(), signal.SIGTERM)
"""
    process = start(program, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert json.loads(said)["message"] == "before"


def test_what_is_logged_at_exit_and_after_is_written() -> None:
    program = """
import atexit, logging
from stepforge import logs
atexit.register(lambda: logging.info("late"))
logs.configure("tests")
logging.info("last")
"""
    process = start(program, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    assert sorted(json.loads(line)["message"] for line in said.splitlines()) == ["last", "late"]


def test_pooled_children_that_end_without_exit_handlers_lose_nothing() -> None:
    program = """
import logging, multiprocessing
from stepforge import logs
def work(n):
    logging.info("child %d", n)
logs.configure("tests")
context = multiprocessing.get_context("fork")
workers = [context.Process(target=work, args=(n,)) for n in range(8)]
[w.start() for w in workers]; [w.join() for w in workers]
logging.info("parent")
"""
    process = start(program, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    messages = sorted(json.loads(line)["message"] for line in said.splitlines())
    assert messages == [*(f"child {n}" for n in range(8)), "parent"]


def test_processes_share_a_file_through_its_rotations(tmp_path: Path) -> None:
    program = """
import logging, sys
from pathlib import Path
from stepforge import logs
logs.configure("tests", sink=Path(sys.argv[1]), max_bytes=60_000, backups=200)
for n in range(1500):
    logging.info("%s %d", sys.argv[2], n)
"""
    processes = [start(program, str(tmp_path / "log"), name) for name in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    files = list(tmp_path.glob("log*"))
    lines = [json.loads(line)["message"] for file in files for line in file.open("rb")]
    assert len(files) > 5
    assert sorted(lines) == sorted(f"{name} {n}" for name in "abc" for n in range(1500))


def test_processes_share_a_pipe_without_tearing_lines() -> None:
    program = """
import logging, os
from stepforge import logs
logs.configure("tests")
for _ in range(2):
    os.fork()
for n in range(400):
    logging.info("%d %d %s", os.getpid(), n, "x" * (n % 300))
"""
    process = start(program, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    messages = [json.loads(line)["message"] for line in said.splitlines()]
    assert len(set(messages)) == len(messages) == 4 * 400
