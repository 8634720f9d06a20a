"""Lines a second under load, and milliseconds of formatting: `python tests/benchmarks/logging_speed.py`.

Four threads log as fast as they can into a file, through the queue, while a fifth computes; a line counts when it is in
the file. Ours redacts every line. Peers, in the same run where they are installed: structlog and python-json-logger,
which redact nothing; structlog as its documentation sets it up for speed, python-json-logger behind logging's queue.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import logging.handlers
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stepforge import logs

THREADS = 4
LINES = 10_000
PACED_PER_SECOND = 2_000
REPEATS = 3
FIELDS = {"status": "Completed", "seconds": 12.5, "metrics": {"loss": 0.123, "reward": 0.5, "completion_tokens": 512}}
MESSAGE = "job ended: name=%s uri=s3://stepforge-000000000000-us-east-1/jobs/srl-0123456789ab-a0/model"
RATE_PAIRS = "password=hunter2 owner=ann@example.org"

Log = Callable[[int], None]


def under_load(log: Log, finish: Callable[[], None], path: Path) -> float:
    """Lines a second that are in the file."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(500))

    def work() -> None:
        for number in range(LINES // THREADS):
            log(number)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    busy = threading.Thread(target=compute, daemon=True)
    busy.start()
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish()
    seconds = time.perf_counter() - started
    ended.set()
    busy.join()
    written = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = LINES // THREADS * THREADS
    lost = sum(sum(line["lost"].values()) for line in written if "lost" in line)
    assert len(written) - sum("lost" in line for line in written) + lost == wanted
    return (wanted - lost) / seconds


@dataclass(frozen=True)
class Formatting:
    """p99 in milliseconds. The processor's time leaves out who else has the processor."""

    processor: float
    wall: float

    def tell(self, who: str) -> None:
        print(f"BENCH {who}_format_wall_p99_ms {self.wall:.3f} ms")
        print(f"BENCH {who}_format_p99_ms {self.processor:.3f} ms")


def formatting_of(function: Callable[[int], object]) -> Formatting:
    """The best of a few repeats: what the machine can do when nothing else runs."""
    return Formatting(*(_best_p99_ms(function, clock) for clock in (time.thread_time, time.perf_counter)))


def _best_p99_ms(
    function: Callable[[int], object], clock: Callable[[], float], *, every_seconds: float = 0.0, calls: int = 1_000
) -> float:
    return min(_p99_ms(function, clock, every_seconds, calls) for _ in range(REPEATS))


def _p99_ms(function: Callable[[int], object], clock: Callable[[], float], every_seconds: float, calls: int) -> float:
    times = []
    due = time.perf_counter()
    for number in range(calls):
        due += every_seconds
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        started = clock()
        function(number)
        times.append((clock() - started) * 1e3)
    return statistics.quantiles(times, n=100)[98]


def record(number: int) -> logging.LogRecord:
    """One in ten holds secrets, one in a hundred an exception."""
    made = logging.LogRecord("bench", logging.INFO, "bench.py", 1, MESSAGE, (number,), None)
    made.__dict__.update(FIELDS)
    if number % 10 == 0:
        made.msg = f"{RATE_PAIRS} {MESSAGE}"
    if number % 100 == 0:
        try:
            raise ValueError(RATE_PAIRS)
        except ValueError as error:
            made.exc_info = (ValueError, error, error.__traceback__)
    return made


def ours(folder: Path) -> tuple[float, Formatting, float]:
    logger = logging.getLogger("bench")
    rates = []
    for number in range(REPEATS):
        path = folder / f"ours{number}"
        with logs.configure("bench", sink=path, max_bytes=1 << 30) as configured:
            rates.append(under_load(partial(info, logger), configured.flush, path))
    with logs.configure("bench", sink=folder / "paced", max_bytes=1 << 30):
        call = _best_p99_ms(partial(info, logger), time.perf_counter, every_seconds=1 / PACED_PER_SECOND)
    formatter = logs.JsonLines("bench")
    return max(rates), formatting_of(lambda n: formatter.format(record(n))), call


def with_python_json_logger(folder: Path) -> tuple[float, Formatting]:
    from pythonjsonlogger.json import JsonFormatter

    formatter = JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    rates = []
    for number in range(REPEATS):
        path = folder / f"json-logger{number}"
        lines: queue.Queue[Any] = queue.Queue()
        file = logging.FileHandler(path)
        file.setFormatter(formatter)
        logger = logging.Logger("bench")
        logger.addHandler(logging.handlers.QueueHandler(lines))
        listener = logging.handlers.QueueListener(lines, file)
        listener.start()
        rates.append(under_load(partial(info, logger), listener.stop, path))
        file.close()
    return max(rates), formatting_of(lambda n: formatter.format(record(n)))


def info(logger: logging.Logger, number: int) -> None:
    logger.info(MESSAGE, number, extra=FIELDS)


def with_structlog(folder: Path) -> tuple[float, Formatting]:
    import structlog

    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(default=str),
    ]
    rates = []
    for number in range(REPEATS):
        path = folder / f"structlog{number}"
        with path.open("w") as stream:
            logger = structlog.wrap_logger(
                structlog.WriteLogger(stream),
                processors=processors,
                wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
                cache_logger_on_first_use=True,
            ).bind()
            rates.append(under_load(partial(event, logger), stream.flush, path))

    def form(number: int) -> object:
        made = record(number)
        event: Any = {"event": made.getMessage(), "exc_info": made.exc_info, **FIELDS}
        for processor in processors:
            event = processor(None, "info", event)
        return event

    return max(rates), formatting_of(form)


def event(logger: Any, number: int) -> None:
    logger.info(MESSAGE % number, **FIELDS)


def main() -> None:
    """Print a figure a line; the last three are those with targets (2,000 lines/s and 2 ms)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if importlib.util.find_spec("pythonjsonlogger") is not None:
            rate, formatting = with_python_json_logger(folder)
            print(f"BENCH python_json_logger_lines_per_s {rate:.0f} lines/s")
            formatting.tell("python_json_logger")
        if importlib.util.find_spec("structlog") is not None:
            rate, formatting = with_structlog(folder)
            print(f"BENCH structlog_lines_per_s {rate:.0f} lines/s, written by the caller")
            formatting.tell("structlog")
        rate, formatting, call = ours(folder)
        print(f"BENCH log_call_p99_ms {call:.3f} ms at {PACED_PER_SECOND} lines/s")
        print(f"BENCH log_lines_per_s {rate:.0f} lines/s")
        formatting.tell("log")


if __name__ == "__main__":
    main()
