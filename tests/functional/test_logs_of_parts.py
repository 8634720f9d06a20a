"""Jobs, the command line and the local server's log speak through the same logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from stepforge.local.lifecycle import _follow
from stepforge.logs._sinks import RotatingFile

ROOT = Path(__file__).resolve().parents[2]
TRACE = "1-67890abc-0123456789abcdef01234567"


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEPFORGE_")}
    return subprocess.run(
        [sys.executable, *command],
        env={**kept, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_job_logs_with_the_ids_of_who_submitted_it_and_hands_them_on(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(
        json.dumps({"trace_id": TRACE, "session_id": "s", "log_level": "DEBUG"})
    )
    program = """
import logging, os, subprocess, sys
from pathlib import Path
from stepforge_jobs import main
main.configure_logs(Path(sys.argv[1]))
logging.getLogger("a").debug("x")
again = "from stepforge import logs; import logging; logs.configure('rank'); logging.getLogger().info('y')"
if len(sys.argv) == 2:
    main.logs().flush()
    subprocess.run([sys.executable, "-c", again], check=True)
"""
    done = run("-c", program, str(tmp_path), TRAINING_JOB_NAME="srl-0-a0", STEPFORGE_SESSION_ID="s")
    job, rank = (json.loads(line) for line in done.stdout.splitlines())
    assert (job["service"], job["level"]) == ("stepforge.job", "DEBUG")
    for line in (job, rank):
        assert [line[name] for name in ("trace_id", "request_id", "session_id")] == [TRACE, "srl-0-a0", "s"]
    assert done.stderr == ""


def test_a_job_takes_its_ids_from_its_environment_and_says_which_call_created_it(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from stepforge_jobs import main; main.configure_logs(Path('.'))"
    created_by = {"STEPFORGE_TRACE_ID": TRACE, "STEPFORGE_SESSION_ID": "s", "STEPFORGE_REQUEST_ID": "call-1"}
    done = run("-c", program, TRAINING_JOB_NAME="srl-0-a0", **created_by)
    (line,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (line["trace_id"], line["session_id"], line["request_id"]) == (TRACE, "s", "srl-0-a0")
    assert line["requested_by"] == "call-1"
    rank = run("-c", program, TRAINING_JOB_NAME="srl-0-a0", WORLD_SIZE="2", RANK="1", **created_by)
    assert rank.stdout == "", "one process of several says it"


def test_a_jobs_failure_names_no_secret(tmp_path: Path) -> None:
    done = run("-m", "stepforge_jobs.main", "--password=hunter2", SAGEMAKER_BASE_DIR=str(tmp_path))
    assert done.returncode == 1
    failure = (tmp_path / "output" / "failure").read_text()
    assert failure.startswith("InvalidInput: arguments ['--password=[redacted:secret]']")
    assert "Traceback" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr + failure


def test_the_command_line_logs_to_stderr_where_asked(tmp_path: Path) -> None:
    home = {"STEPFORGE_HOME": str(tmp_path)}
    spoken = run("-m", "stepforge.cli", "--log-level", "DEBUG", "local", "status", "--json", **home)
    assert json.loads(spoken.stdout)["running"] is False
    assert all(json.loads(line)["service"] == "stepforge.cli" for line in spoken.stderr.splitlines())
    wrong = run("-m", "stepforge.cli", "local", "status", "--json", STEPFORGE_LOG="LOUD", **home)
    assert wrong.returncode == 2
    assert "LOUD" in json.loads(wrong.stdout)["message"]


def test_following_a_log_goes_on_through_its_rotations(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.touch()
    sink = RotatingFile(path, max_bytes=2_048, backups=3)
    seen: list[str] = []

    def read(lines: Iterator[str]) -> None:
        for line in lines:
            seen.append(line)
            if line == "29":
                return

    reader = threading.Thread(target=read, args=(_follow(path),), daemon=True)
    reader.start()
    time.sleep(0.3)
    for number in range(30):
        sink.write(f"{number}\n".encode())
        if number % 10 == 9:
            sink.write(b"x" * 2_000 + b"\n")
            time.sleep(0.6)
    reader.join(20)
    assert len(list(tmp_path.glob("server.log.*"))) >= 1
    assert [line for line in seen if not line.startswith("x")] == [str(number) for number in range(30)]
    sink.close()
