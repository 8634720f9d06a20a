"""Jobs in forked children: torch and transformers are imported once, and a child can be killed like any process."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from stepforge_jobs import main as entry


def fork(base: Path, *, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a job's `main` in a child and return its pid. Its output goes to `base`/log.txt."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(base / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ["SAGEMAKER_BASE_DIR"] = str(base)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prepare()
        code = entry.main(["train"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        # Not exit: what pytest has registered must not run twice.
        os._exit(code)


def wait(pid: int) -> int:
    """Exit code; the negative number of the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(base: Path, *, prepare: Callable[[], None] = lambda: None) -> int:
    return wait(fork(base, prepare=prepare))


def succeed(base: Path) -> Path:
    """Run to success; the artifact's folder."""
    code = run(base)
    assert code == 0, f"exit {code}: {(base / 'log.txt').read_text()[-3000:]}"
    return base / "model"
