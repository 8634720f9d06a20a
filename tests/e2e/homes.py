"""A stepforge of its own in a folder: the command line in processes, and a look at what it left behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from stepforge.artifacts import read_manifest
from stepforge.contracts.jobs import ArtifactRef
from stepforge.local.lifecycle import LocalAws
from stepforge.local.state import Layout

Json = Any
ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.toml")
TRAIN = ("run", "train", "--domain", "facial", "--recipe", str(TINY))


@dataclass(frozen=True)
class Home:
    """`checkout` is the source tree whose stepforge runs; the home is its state."""

    folder: Path
    checkout: Path = ROOT

    @property
    def layout(self) -> Layout:
        return Layout.of(self.folder)

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """A command, in a process that the caller waits for or kills."""
        return self.python("-m", "stepforge.cli", *arguments, cwd=cwd)

    def python(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """An interpreter that imports this checkout's stepforge and finds this home."""
        paths = [self.checkout / "sdk", self.checkout / "jobs"]
        environment = {**os.environ, "STEPFORGE_HOME": str(self.folder), "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=cwd or self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cli(self, *arguments: str, code: int = 0) -> Json:
        """The JSON that a command prints."""
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, (process.returncode, out, err)
        return json.loads(out)

    def down(self) -> None:
        self.start("local", "down", "--yes").communicate(timeout=60)

    def aws(self) -> LocalAws:
        """The running server, without starting one."""
        server, key = self.layout.server(), self.layout.access_key()
        assert server is not None, "no server is up"
        return LocalAws(f"http://127.0.0.1:{server['port']}", key.id, key.secret, self.folder)

    def jobs(self) -> list[Json]:
        """DescribeTrainingJob's documents, from the service's own file: they are there whether a server is or not."""
        if not self.layout.database.is_file():
            return []
        with sqlite3.connect(f"file:{self.layout.database}?mode=ro", uri=True) as db:
            try:
                rows = db.execute("select document from documents where kind='job'").fetchall()
            except sqlite3.OperationalError:
                return []
        return [json.loads(row[0]) for row in rows]

    def job(self, kind: str) -> Json | None:
        """The newest job of a type."""
        found = [job for job in self.jobs() if job["TrainingJobName"].startswith(f"{kind}-")]
        return max(found, key=lambda job: job["CreationTime"]) if found else None

    def steps(self, kind: str) -> int:
        """The newest checkpoint of the running job of a type; -1 where there is none."""
        job = self.job(kind)
        folder = self.layout.jobs / (job["TrainingJobName"] if job else "none") / "algo-1" / "ml" / "checkpoints"
        return max((int(path.name.removeprefix("step-")) for path in folder.glob("*/step-*")), default=-1)

    def trainer(self) -> psutil.Process | None:
        """The process of the training job that runs."""
        server = self.layout.server()
        if server is None:
            return None
        for process in psutil.Process(server["pid"]).children(recursive=True):
            try:
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "stepforge_jobs.main" in command and not any(part.endswith("supervise.py") for part in command):
                return process
        return None

    def kill_server(self) -> None:
        """kill -9 of the server and of everything that it started."""
        server = self.layout.server()
        assert server is not None
        process = psutil.Process(server["pid"])
        family = [*process.children(recursive=True), process]
        for member in reversed(family):
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)

    def weights(self, result: Json) -> str:
        """SHA-256 of the weights that a run ended with."""
        ref = ArtifactRef.model_validate(result["stages"][-1]["artifact"])
        manifest = read_manifest(self.aws().client("s3"), ref.uri, expected_sha256=ref.sha256)
        return next(entry.sha256 for entry in manifest.files if entry.path == "model.safetensors")

    def twice_completed(self) -> dict[str, int]:
        """Jobs, by prefix, with more than one Completed attempt."""
        done = (job["TrainingJobName"] for job in self.jobs() if job["TrainingJobStatus"] == "Completed")
        counts = Counter(name.rpartition("-")[0] for name in done)
        return {prefix: count for prefix, count in counts.items() if count > 1}


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], *, seconds: float = 120) -> None:
    """Wait until something holds, while a command runs."""
    deadline = time.monotonic() + seconds
    while not what():
        if process.poll() is not None:
            raise AssertionError(f"the command ended first with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
