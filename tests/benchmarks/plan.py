"""Seconds of whole `stepforge plan --domain facial`s, and the calls of a submission: `python tests/benchmarks/plan.py`.

In a home of its own: the first start (with deployment), a start of what is deployed, and with the server up. Beside it
sagemaker's ModelTrainer, where STEPFORGE_SAGEMAKER_PYTHON names the Python of an environment that has the extra.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPEATS, PLANS = 7, 25
PATHS = os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])
PEER = ROOT / "tests" / "support" / "sagemaker_submission.py"

SUBMIT = """
import json, time
from stepforge.client import Client
from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.work import DatasetWork
from stepforge.submitting.submission import submit

started = time.perf_counter()
connection = Client("local").connection
environment, calls = connection.environment, []
for service in ("s3", "sagemaker"):
    connection.client(service).meta.events.register("before-call", lambda model, **_: calls.append(model.name))
made = time.perf_counter()
spec = JobSpec(domain="bench", work=DatasetWork(domain="facial", seed=77), code_sha256=environment.code["dataset"])
submit(connection, spec)
ended = time.perf_counter()
other = spec.model_copy(update={"work": DatasetWork(domain="facial", seed=78)})
key = connection._session.get_credentials()
print(json.dumps({"calls": calls, "seconds": ended - made, "connect": made - started, "peer": {
    "endpoint_url": connection.endpoint_url, "access_key_id": key.access_key, "secret_access_key": key.secret_key,
    "region": "us-east-1", "spec": other.model_dump_json()}}))
"""


def peer(given: dict[str, Any], home: str) -> None:
    """What the same submission takes with ModelTrainer."""
    python = os.environ.get("STEPFORGE_SAGEMAKER_PYTHON")
    if python is None:
        print("sagemaker's ModelTrainer: not installed (name its Python in STEPFORGE_SAGEMAKER_PYTHON)")
        return
    environment = {**os.environ, "PYTHONPATH": PATHS, "STEPFORGE_HOME": home}
    started = time.perf_counter()
    done = subprocess.run(
        [python, str(PEER)], input=json.dumps(given), env=environment, capture_output=True, text=True, check=True
    )
    whole = time.perf_counter() - started
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"sagemaker's ModelTrainer calls {', '.join(found['calls'])}")
    print(f"BENCH peer_submission_process_seconds {whole:.2f} s")
    print(f"BENCH peer_submission_seconds {found['seconds']:.2f} s")
    print(f"BENCH peer_calls_beside_create {len(found['calls']) - 1} calls")


def main() -> None:
    """Print a figure a line; the last is the one with a target (1.0)."""
    with tempfile.TemporaryDirectory(prefix="stepforge-bench-") as home:
        environment = {**os.environ, "PYTHONPATH": PATHS, "STEPFORGE_HOME": home}

        def seconds(*arguments: str) -> float:
            started = time.perf_counter()
            command = [sys.executable, "-m", "stepforge.cli", *arguments]
            subprocess.run(command, env=environment, check=True, cwd=home, capture_output=True)
            return time.perf_counter() - started

        plan = ("plan", "--domain", "facial")
        try:
            print(f"BENCH plan_first_start_seconds {seconds(*plan):.2f} s")
            seconds("local", "down")
            print(f"BENCH plan_server_down_seconds {seconds(*plan):.2f} s")
            print(f"BENCH help_seconds {min(seconds('--help') for _ in range(REPEATS)):.2f} s")
            started = time.perf_counter()
            submitted = subprocess.run(
                [sys.executable, "-c", SUBMIT], env=environment, check=True, cwd=home, capture_output=True, text=True
            )
            whole = time.perf_counter() - started
            found = json.loads(submitted.stdout)
            print(f"BENCH submission_process_seconds {whole:.2f} s")
            print(f"BENCH submission_seconds {found['seconds']:.2f} s")
            print(f"BENCH submission_calls_beside_create {len(found['calls']) - 1} calls")
            peer(found["peer"], home)
            dry_run = ("run", "train", "--domain", "facial", "--dry-run")
            print(f"BENCH dry_run_seconds {statistics.median(seconds(*dry_run) for _ in range(REPEATS)):.2f} s")
            times = [seconds(*plan) for _ in range(PLANS)]
            print(f"BENCH plan_seconds_best {min(times):.2f} s")
            print(
                f"BENCH plan_seconds_p99 {statistics.quantiles(times, n=100, method='inclusive')[98]:.2f} s of {PLANS}"
            )
            print(f"BENCH plan_seconds {statistics.median(times):.2f} s")
        finally:
            seconds("local", "down", "--yes")


if __name__ == "__main__":
    main()
