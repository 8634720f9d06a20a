"""What a line holds, and whose it is: in threads, tasks and processes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.log_sinks import Memory

from stepforge import logs
from stepforge.errors import InvalidInput

logger = logging.getLogger("tests.lines")
XRAY = "1-67890abc-0123456789abcdef01234567"


@pytest.fixture
def memory() -> Iterator[Memory]:
    sink = Memory()
    with logs.configure("tests", sink=sink, level="INFO", queued=False):
        yield sink


def test_every_line_has_its_ids_service_level_and_time(memory: Memory) -> None:
    logger.info("job %s ended", "a", extra={"seconds": 3.5})
    line = memory.last()
    assert {name: line[name] for name in ("level", "service", "logger", "message", "seconds")} == {
        "level": "INFO",
        "service": "tests",
        "logger": "tests.lines",
        "message": "job a ended",
        "seconds": 3.5,
    }
    assert line["trace_id"]
    assert line["request_id"]
    assert line["session_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 60


def test_a_context_adds_to_lines_within_and_ends(memory: Memory) -> None:
    with logs.context(trace_id=XRAY, run="train-0"), logs.context(stage="srl"):
        logger.info("within")
    logger.info("after")
    within, after = memory.read()
    assert (within["trace_id"], within["run"], within["stage"]) == (XRAY, "train-0", "srl")
    assert after["trace_id"] != XRAY
    assert "run" not in after


def test_a_context_may_not_take_a_name_that_lines_have() -> None:
    with pytest.raises(InvalidInput, match="taken"), logs.context(level="x"):
        pass


def test_tasks_keep_their_own_context(memory: Memory) -> None:
    async def work(name: str) -> None:
        with logs.context(request_id=name):
            await asyncio.sleep(0)
            await asyncio.to_thread(logger.info, name)

    async def both() -> None:
        await asyncio.gather(*(work(f"r{number}") for number in range(5)))

    asyncio.run(both())
    assert sorted((line["request_id"], line["message"]) for line in memory.read()) == [
        (f"r{number}", f"r{number}") for number in range(5)
    ]


def test_a_thread_takes_the_context_along_where_asked(memory: Memory) -> None:
    with logs.context(request_id="here"):
        for work in (logger.info, logs.in_context(logger.info)):
            thread = threading.Thread(target=work, args=("x",))
            thread.start()
            thread.join()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(logs.in_context(logger.info), ["y"] * 8))
    own, taken, *pooled = (line["request_id"] for line in memory.read())
    assert own != "here"
    assert [taken, *pooled] == ["here"] * 9


def test_ids_travel_to_another_process_by_its_environment() -> None:
    with logs.context(trace_id=XRAY, request_id="r", session_id="s"):
        variables = logs.environment()
    program = "import json; from stepforge import logs; print(json.dumps(logs.current()))"
    assert json.loads(run(program, **variables)) == {"trace_id": XRAY, "request_id": "r", "session_id": "s"}


def test_a_malformed_id_in_the_environment_is_left_aside() -> None:
    program = "from stepforge import logs; print(logs.current()['trace_id'])"
    assert run(program, STEPFORGE_TRACE_ID="two words\n").startswith("1-")


def run(program: str, **variables: str) -> str:
    import os
    import subprocess

    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_trace_travels_in_xrays_header() -> None:
    with logs.context(trace_id=XRAY):
        assert logs.trace_of(logs.trace_header()) == XRAY
    with logs.context(trace_id="4bf92f3577b34da6a3ce929d0e0e4736"):
        assert logs.trace_of(logs.trace_header()) == "1-4bf92f35-77b34da6a3ce929d0e0e4736"
    with logs.context(trace_id="somebody's"):
        assert logs.trace_header() == ""
    assert logs.trace_of("Parent=1;Sampled=0") == ""


def test_secrets_are_redacted_wherever_they_stand(memory: Memory) -> None:
    with logs.context(owner="ann@example.org"):
        try:
            raise ValueError("bad password=hunter2-a") from KeyError("token: abcdEFGH12345678")
        except ValueError:
            logger.exception(
                "api_key=%s",
                "hunter2-b",
                stack_info=True,
                extra={"password": "hunter2-c", "fields": {"headers": [("Authorization", "Bearer hunter2-d")]}},
            )
    raw = memory.text()
    assert not re.search(r"hunter2-[abd]|ann@|abcdEFGH", raw.split('"stack"')[0])
    line = memory.last()
    assert line["password"] == "[redacted:secret]"
    assert "Traceback" in line["exception"]
    assert "direct cause" in line["exception"]


def test_a_taken_key_gets_an_underscore(memory: Memory) -> None:
    logger.info("x", extra={"fields": {"level": 3, "time": 4, "trace_id": 5}})
    line = memory.last()
    assert (line["level"], line["level_"], line["time_"], line["trace_id_"]) == ("INFO", 3, 4, 5)


def test_arguments_that_do_not_fit_cost_no_line() -> None:
    record = logging.LogRecord("a", logging.INFO, "f.py", 1, "%d of %d", ("x",), None)
    assert json.loads(logs.JsonLines("tests").format(record))["message"].startswith(
        "%d of %d (its arguments do not fit"
    )


@pytest.mark.parametrize(
    "message",
    ["\ud800", "a\nb\r\x00\x1b[31m", "ü 🎉", "\u2028"],
    ids=["half a pair", "control characters", "wide", "line separator"],
)
def test_whatever_is_logged_is_one_line_of_json(message: str) -> None:
    # Not by a logger: pytest would capture half a surrogate pair, which pytest-xdist cannot send.
    record = logging.LogRecord("a", logging.INFO, "f.py", 1, message, (), None)
    record.value = message
    line = logs.JsonLines("tests").format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == json.loads(line)["value"] == message


def test_a_line_is_bounded_and_says_what_is_missing(memory: Memory) -> None:
    logger.info("big", extra={"small": 1, **{f"field{n}": ["x" * 30_000] * 50 for n in range(5)}})
    assert len(memory.text()) < 257_000
    assert memory.last()["message"] == "big"
    assert memory.last()["small"] == 1
    assert "[cut: 30000 characters]" in memory.text()


def test_a_line_that_escapes_make_too_long_names_what_is_left_out(memory: Memory) -> None:
    logger.info("big", extra={"small": 1, **{f"field{n}": "\u00fc" * 30_000 for n in range(4)}})
    assert len(memory.text()) < 257_000
    line = memory.last()
    assert line["small"] == 1
    assert len(line["cut"]) >= 2


def test_a_long_traceback_keeps_its_end(memory: Memory) -> None:
    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("x" * 100_000 + " the end")

    try:
        deep(5)
    except ValueError:
        logger.exception("failed")
    exception = memory.last()["exception"]
    assert exception.startswith("Traceback")
    assert exception.endswith("the end")
    assert len(exception) < 70_000


def test_people_read_a_line_as_text(memory: Memory) -> None:
    logger.warning("slow", extra={"seconds": 3})
    assert re.fullmatch(r"\S+Z WARNING tests.lines slow seconds=3", logs.readable(memory.text().strip()))
    assert logs.readable("plain") == "plain"
    assert logs.readable('{"event": "progress"}') == '{"event": "progress"}'


def test_importing_the_logs_configures_nothing_and_loads_little() -> None:
    program = (
        "import logging, sys; before = list(logging.getLogger().handlers); from stepforge import logs; "
        "import stepforge.logs.metrics; "
        "heavy = [m for m in ('pydantic', 'boto3', 'asyncio') if m in sys.modules]; "
        "print(logging.getLogger().handlers == before, heavy)"
    )
    assert run(program).strip() == "True []"


def test_closing_gives_the_root_logger_back_what_it_had(memory: Memory) -> None:
    before: Any = (list(logging.getLogger().handlers), logging.getLogger().level)
    with logs.configure("again", sink=Memory(), level="ERROR", queued=False):
        assert logging.getLogger().handlers != before[0]
    # The inner call ended the outer one first, which had put back what pytest set up.
    assert memory not in logging.getLogger().handlers


@pytest.mark.parametrize("sink", ["stdin", 3, None])
def test_a_sink_that_is_none_is_refused(sink: Any) -> None:
    with pytest.raises(InvalidInput, match="sink"):
        logs.configure("x", sink=sink)
