"""`stepforge stop`, and what a name on the command line means."""

from __future__ import annotations

import dataclasses
from typing import Any

from stepforge.cli._output import emit
from stepforge.client import Client
from stepforge.connection import command
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import UnknownName
from stepforge.following.job_runs import JobRun
from stepforge.following.stopping import Stopped
from stepforge.pipelines import Run
from stepforge.submitting.started import find, is_job_run

_RECENT = 5


def is_run(client: Client, name: str) -> bool:
    """Whether a name is a run's, or a job's. Raises UnknownName with the newest of both where it can be neither."""
    if name == "latest" or name.startswith("train-") or is_job_run(name):
        return True
    if name.partition("-")[0] in WORK_TYPES:
        return False
    runs = [run["name"] for run in client.pipelines.runs(most=_RECENT)]
    jobs = [job["TrainingJobName"] for job in client.jobs.recent(most=_RECENT)]
    raise UnknownName("run or job", name, [*runs, *jobs], newest=_RECENT in (len(runs), len(jobs)))


def run_of(client: Client, name: str) -> Run | JobRun[Any, Any]:
    """The run of a name that `is_run`. Raises UnknownName."""
    return find(client.connection, name) if is_job_run(name) else client.pipelines.get(name)


def stop(client: Client, name: str, *, as_json: bool) -> None:
    if is_run(client, name):
        run = run_of(client, name)
        found = run.stop()
        text = _run_text(found)
        execution = run.refresh()
        status, ended = execution.word, execution.stopped
    else:
        found = client.jobs.stop(name)
        text = _job_text(found, client.connection.name)
        job = client.jobs.get(name)
        status, ended = job["TrainingJobStatus"], job.get("TrainingEndTime")
    # What was found is what there was before: people are told that, programs how it stands now.
    now = {"status": status, "ended": None if ended is None else ended.isoformat()}
    plain = dataclasses.asdict(found) | now
    emit({"stopped": found.ended is None, **plain}, as_json=as_json, text=text)


def _run_text(found: Stopped) -> str:
    others = ", ".join(waiting.run for waiting in found.waiting)
    lines = [f"stopping {found.name}" if found.ended is None else _has_ended(found)]
    if found.job and found.job_stopped:
        lines.append(f"its job {found.job} stops; what it learnt stays in its checkpoint")
        if others:
            lines.append(f"{others}, which waits for that job too, goes on from there with the next attempt")
    elif found.job:
        lines.append(f"the job {found.job} goes on: {others} waits for it too")
    if found.ended is None:
        lines.append("the command that started the run goes on from the last checkpoint")
    return "\n".join(lines)


def _job_text(found: Stopped, env: str) -> str:
    if found.ended is not None:
        return _has_ended(found)
    lines = [f"stopping {found.name}; what it learnt stays in its checkpoint"]
    for waiting in found.waiting:
        if waiting.owner:
            lines.append(f"{waiting.run} ends with it")
        else:
            lines.append(
                f"{waiting.run} goes on from there with the next attempt: "
                f"`{command(f'stop {waiting.run}', env)}` stops both"
            )
    return "\n".join(lines)


def _has_ended(found: Stopped) -> str:
    return f"{found.name} has ended already: {found.status}, {found.ended:%Y-%m-%d %H:%M:%S}"
