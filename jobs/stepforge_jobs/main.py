"""The entry point of every job: `python -m stepforge_jobs.main` (SageMaker appends `train`).

Where a training job has several GPUs or hosts, it starts a process for each GPU (launch.py) and ends as they end.
Reads the spec, imports the one module that its work needs, and turns a failure into output/failure and exit code 1.
After SIGTERM the exit code is 143 and no failure is written: the next attempt goes on from the last checkpoint. A
handler stands from the first line on: process 1 of a container does not end by a SIGTERM that it does not handle.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from logging import getLogger
from pathlib import Path
from typing import Any

from stepforge.contracts.work import TRAINING, WorkType
from stepforge.errors import InvalidInput
from stepforge_jobs import durable
from stepforge_jobs.heartbeat import Heartbeat
from stepforge_jobs.job import Interrupted, Job, Progress, base_dir, read_spec
from stepforge_jobs.launch import INTERRUPTED, is_rank, launch, plan_of
from stepforge_jobs.unprivileged import drop_root

WORK: dict[WorkType, str] = {
    "dataset": "stepforge_jobs.datasets.generate:run",
    "gate": "stepforge_jobs.datasets.gate:run",
    "sft": "stepforge_jobs.training.sft:run",
    "srl": "stepforge_jobs.training.srl:run",
    "rlvr": "stepforge_jobs.training.rlvr:run",
    "evaluate": "stepforge_jobs.evaluation.evaluate:run",
}

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Spinning threads made a first step take 50 s instead of .8 s where cores are few.
    "OMP_WAIT_POLICY": "PASSIVE",
}


"""Work that several processes share. The others are done by one."""


ALONE: tuple[WorkType, ...] = ("gate", "evaluate")
"""Work that another host could only do again."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM raise Interrupted wherever the job is; training loops put their own handler in its place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Interrupted("SIGTERM: what was finished until now is in the checkpoints")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def leads() -> bool:
    """Whether this process speaks and writes: the only one, or rank 0 of several."""
    return os.environ.get("RANK", "0") == "0"


def work_function(work: WorkType) -> Callable[[Job], None]:
    module, _, name = WORK[work].partition(":")
    run: Callable[[Job], None] = getattr(import_module(module), name)
    return run


def empty(folder: Path) -> None:
    """Remove what a killed attempt left, or it would end up in the manifest. The folder itself may be a mount."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def logs() -> Any:
    """`stepforge.logs`, by its name: lines decide no result, so a change of them must not run every job again."""
    return import_module("stepforge.logs")


def configure_logs(base: Path) -> None:
    """Lines of loggers go to stdout as JSON, between those of `Progress`, with the ids of who submitted the job.

    Ids and level come from STEPFORGE_TRACE_ID, STEPFORGE_SESSION_ID and STEPFORGE_LOG_LEVEL; the hyperparameters
    `trace_id`, `session_id` and `log_level` where those are not set. The request is the job itself; the call that
    created it, STEPFORGE_REQUEST_ID, stands in the first line. `log-level` below the base changes the level.
    """
    path = base / "input" / "config" / "hyperparameters.json"
    try:
        given = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        given = {}  # SageMaker writes it; the job itself never reads it
    wanted = {name: given.get(name) for name in ("trace_id", "session_id", "log_level")}
    for name, value in wanted.items():
        if isinstance(value, str) and value:
            os.environ.setdefault(f"STEPFORGE_{name.upper()}", value)
    file = Path(os.environ.get("STEPFORGE_LOG_LEVEL_FILE") or base / "log-level")
    by = os.environ.get("STEPFORGE_REQUEST_ID")
    logs().configure("stepforge.job", level_file=file, request_id=os.environ.get("TRAINING_JOB_NAME"))
    if by and not is_rank():
        getLogger(__name__).info("job begins", extra={"requested_by": by})
    # For the ranks that it may start.
    os.environ.update(logs().environment())


def main(arguments: Sequence[str] = ()) -> int:
    """Run the job below `base_dir()` and return the process's exit code."""
    os.environ.update(OFFLINE)
    with interruptible():
        return _main(base_dir(), arguments)


def _main(base: Path, arguments: Sequence[str]) -> int:
    try:
        if list(arguments) not in ([], ["train"]):
            raise InvalidInput(
                f"arguments {list(arguments)!r}: only 'train' is understood, everything else is in the spec"
            )
        spec = read_spec(base)
        plan = plan_of(base) if spec.type in TRAINING and not is_rank() else None
        if spec.type in ALONE and (hosts := len(plan_of(base).hosts)) > 1:
            raise InvalidInput(f"{hosts} hosts for a {spec.type!r} job, done by one process: set instance_count to 1")
        if plan is not None and plan.world > 1:
            (base / "output" / "failure").unlink(missing_ok=True)
            return launch(plan, [sys.executable, "-m", "stepforge_jobs.main", *arguments])
        job = Job(spec=spec, base=base, progress=Progress() if leads() else Progress(stream=io.StringIO()))
        job.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        with durable.alone_in(job.checkpoint_dir) if leads() else nullcontext():
            if leads():
                empty(job.model_dir)
            job.progress.event("started", type=spec.type, spec_sha256=spec.identity)
            with Heartbeat(base / "output", job.progress) if leads() else nullcontext():
                work_function(spec.type)(job)
            job.progress.event("finished", type=spec.type)
    except durable.Occupied as busy:
        # No failure file: it would be the other process's.
        print(busy, file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the boundary of the process: SageMaker reads the failure from a file
        failure = base / "output" / "failure"
        failure.parent.mkdir(parents=True, exist_ok=True)
        # Of several ranks the first to fail has the reason; the others fail for want of it.
        with suppress(FileExistsError), failure.open("x" if is_rank() else "w") as stream:
            stream.write(logs().redact(f"{type(error).__name__}: {error}"))
        print(logs().redact(traceback.format_exc()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    drop_root()
    configure_logs(base_dir())
    sys.exit(main(sys.argv[1:]))
