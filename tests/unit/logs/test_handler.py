"""What is logged is written, or counted: full queues, slow and failing sinks, levels, files that are rotated."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.log_sinks import Memory

from stepforge import logs
from stepforge.errors import InvalidInput
from stepforge.logs._sinks import RotatingFile

logger = logging.getLogger("tests.handler")


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def memory() -> Iterator[Memory]:
    sink = Memory()
    yield sink
    sink.opened.set()


def test_lines_arrive_in_order_and_flush_waits_for_them(memory: Memory) -> None:
    with logs.configure("tests", sink=memory) as configured:
        for number in range(2_000):
            logger.info("%d", number)
        configured.flush()
        assert [line["message"] for line in memory.read()] == [str(number) for number in range(2_000)]
    assert memory.writes < 200


def test_a_sink_that_hangs_does_not_hold_up_the_caller(memory: Memory) -> None:
    memory.opened.clear()
    with logs.configure("tests", sink=memory):
        started = time.monotonic()
        for _ in range(500):
            logger.info("x")
        assert time.monotonic() - started < 5
        memory.opened.set()
    assert len(memory.read()) == 500


def test_what_a_full_queue_drops_is_counted_and_told(memory: Memory) -> None:
    memory.opened.clear()
    with logs.configure("tests", sink=memory, capacity=100) as configured:
        for _ in range(150):
            logger.info("x")
        for _ in range(3):
            logger.warning("y")
        assert sum(configured.handler.lost.values()) == 53
        memory.opened.set()
        assert eventually(lambda: len(memory.read()) == 101)
    told = memory.last()
    assert told["logger"] == "stepforge.logs"
    assert told["lost"] == {"INFO": 50, "WARNING": 3}
    assert "53 log lines were lost" in told["message"]


def test_an_error_waits_for_room_and_then_gets_it(memory: Memory) -> None:
    memory.opened.clear()
    with logs.configure("tests", sink=memory, capacity=10):
        for _ in range(10):
            logger.info("x")
        started = time.monotonic()
        logger.error("without room")
        assert 0.2 < time.monotonic() - started < 5
        memory.opened.set()
        logger.error("with room")
    assert [line["message"] for line in memory.read() if line["level"] == "ERROR"] == ["with room"]
    assert {"ERROR": 1} in [line.get("lost") for line in memory.read()]


def test_a_sink_that_fails_for_a_while_loses_nothing(memory: Memory, capfd: pytest.CaptureFixture[str]) -> None:
    memory.failure = OSError(28, "No space left on device")
    with logs.configure("tests", sink=memory) as configured:
        configured.handler._tick_seconds = 0.05
        for number in range(50):
            logger.info("%d", number)
        assert eventually(lambda: memory.writes >= 3)
        memory.failure = None
        configured.flush()
        assert [line["message"] for line in memory.read()] == [str(number) for number in range(50)]
    assert capfd.readouterr().err.count("the sink fails (OSError: [Errno 28]") == 1


def test_a_sink_that_fails_for_good_ends_nothing_and_says_how_much_is_lost(
    memory: Memory, capfd: pytest.CaptureFixture[str]
) -> None:
    memory.failure = BrokenPipeError()
    with logs.configure("tests", sink=memory):
        for _ in range(7):
            logger.info("x")
    assert "7 log lines could not be written" in capfd.readouterr().err


def test_a_sink_that_takes_a_few_bytes_a_time_gets_whole_lines() -> None:
    sink = Memory(most=7)
    with logs.configure("tests", sink=sink):
        for number in range(20):
            logger.info("%d", number)
    assert [line["message"] for line in sink.read()] == [str(number) for number in range(20)]


def test_a_sink_that_logs_does_not_wait_for_itself(memory: Memory) -> None:
    class Chatty(Memory):
        def write(self, lines: bytes) -> int:
            if self.writes < 3:
                logger.info("from within")
            return super().write(lines)

    chatty = Chatty()
    for queued in (True, False):
        with logs.configure("tests", sink=chatty, queued=queued):
            logger.info("x")
    assert {line["message"] for line in chatty.read()} == {"x", "from within"}


def test_a_record_that_cannot_be_formatted_is_counted(memory: Memory) -> None:
    class Broken(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise RuntimeError("no")

    with logs.configure("tests", sink=memory, queued=False) as configured:
        formatter, configured.handler.formatter = configured.handler.formatter, Broken()
        logger.info("x")
        configured.handler.formatter = formatter
        logger.info("y")
    assert memory.read()[0]["message"] == "y"
    assert memory.last()["lost"] == {"INFO": 1}


def test_a_forked_child_writes_its_own_lines_and_none_of_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logs.configure("tests", sink=path) as configured:
        for number in range(300):
            logger.info("parent %d", number)
        child = os.fork()
        if not child:
            for number in range(300):
                logger.info("child %d", number)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        configured.flush()
    said = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert sorted(said) == sorted(f"{who} {number}" for who in ("parent", "child") for number in range(300))


def test_levels_change_by_a_call(memory: Memory) -> None:
    with logs.configure("tests", sink=memory, queued=False):
        logger.debug("no")
        logs.set_level("DEBUG", logger="tests")
        try:
            logger.debug("yes")
        finally:
            logging.getLogger("tests").setLevel(logging.NOTSET)
        with pytest.raises(InvalidInput, match="LOUD"):
            logs.set_level("LOUD")
    assert [line["message"] for line in memory.read()] == ["yes"]


def test_levels_change_by_a_file_while_the_program_runs(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "level"

    def debug_is_on(name: str) -> Callable[[], bool]:
        return lambda: logging.getLogger(name).isEnabledFor(logging.DEBUG)

    with logs.configure("tests", sink=memory, level_file=path) as configured:
        configured.handler._tick_seconds = 0.05
        assert not debug_is_on("tests.handler")()
        path.write_text("INFO tests.handler=DEBUG")
        assert eventually(debug_is_on("tests.handler"))
        assert not debug_is_on("tests.other")()
        path.write_text("DEBUG")
        assert eventually(debug_is_on("tests.other"))
        path.write_text("very loud!")
        assert eventually(lambda: "left aside" in memory.text())
        assert debug_is_on("tests.other")()
        path.unlink()
        assert eventually(lambda: not debug_is_on("tests.other")())
    assert "log levels changed" in memory.text()


def test_a_file_is_rotated_by_size_and_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logs.configure("tests", sink=path, max_bytes=20_000, backups=30):
        for number in range(1_000):
            logger.info("%d", number)
    files = sorted(tmp_path.glob("log*"), key=lambda file: int(file.suffix[1:] or 0), reverse=True)
    assert len(files) > 5
    assert all(file.stat().st_size <= 20_000 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    lines = [json.loads(line)["message"] for file in files for line in file.read_text().splitlines()]
    assert lines == [str(number) for number in range(1_000)]


def test_only_so_many_older_files_stay(tmp_path: Path) -> None:
    with logs.configure("tests", sink=tmp_path / "log", max_bytes=2_000, backups=2):
        for number in range(100):
            logger.info("%d", number)
    assert sorted(file.name for file in tmp_path.glob("log*")) == ["log", "log.1", "log.2"]


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", []
    sink = RotatingFile(path, max_bytes=10_000, backups=1, rotated=seen.append)
    sink.write(b"a\n")
    path.rename(tmp_path / "moved")
    sink.write(b"b\n")
    assert (path.read_bytes(), (tmp_path / "moved").read_bytes()) == (b"b\n", b"a\n")
    assert len(seen) == 1
    sink.close()


@pytest.mark.parametrize(("max_bytes", "backups"), [(10, 1), (10_000, 0)])
def test_limits_that_cannot_be_are_refused(tmp_path: Path, max_bytes: int, backups: int) -> None:
    with pytest.raises(InvalidInput, match="at least"):
        logs.configure("tests", sink=tmp_path / "log", max_bytes=max_bytes, backups=backups)


@pytest.mark.parametrize("bad", [{"max_bytes": 0}, {"max_bytes": 2e6}, {"backups": 0}])
def test_a_log_that_could_not_rotate_is_refused_whatever_the_sink(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="at least 1024 bytes"):
        logs.configure("t", **bad)
