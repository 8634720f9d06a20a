"""A job's sign of life."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

from stepforge_jobs.heartbeat import NAME, Heartbeat
from stepforge_jobs.job import Progress


def test_a_long_step_beats_in_the_file_and_in_the_log(tmp_path: Path) -> None:
    out = io.StringIO()
    progress = Progress(stream=out)
    with Heartbeat(tmp_path / "output", progress, interval_seconds=0.05):
        progress.step("srl", 3, 10, loss=0.5)
        deadline = time.monotonic() + 20
        while out.getvalue().count('"heartbeat"') < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        beat = json.loads((tmp_path / "output" / NAME).read_text())
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    beats = [line for line in lines if line["event"] == "heartbeat"]
    for found in (beat, beats[-1]):
        assert (found["stage"], found["step"], found["steps"]) == ("srl", 3, 10)
        assert abs(found["time"] - time.time()) < 5
    assert beat["step_seconds"] >= 0.1
    assert beats[-1]["step_seconds"] > beats[0]["step_seconds"]


def test_where_lines_are_written_anyway_no_beat_stands_between_them(tmp_path: Path) -> None:
    out = io.StringIO()
    progress = Progress(stream=out, interval_seconds=0.0)
    with Heartbeat(tmp_path, progress, interval_seconds=1.0):
        for step in range(30):
            progress.step("srl", step, 100)
            time.sleep(0.05)
        beat = json.loads((tmp_path / NAME).read_text())
    assert '"heartbeat"' not in out.getvalue()
    assert beat["step"] > 0
