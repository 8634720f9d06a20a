"""What the local AWS is at, and what it costs: so that nobody stops it, or leaves it, without knowing."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from stepforge.jobs import PENDING
from stepforge.local.lifecycle import reach, status


@dataclass(frozen=True)
class Activity:
    runs: tuple[str, ...]
    """Executions that run, of `train` and `promote`; their children are left out."""
    jobs: tuple[str, ...]
    """Training jobs that have not ended, those that wait included."""
    waiting: tuple[str, ...]
    """Of them those that wait for another to end."""
    endpoints: tuple[str, ...]
    memory_mb: int | None
    """Resident, of the server, its handlers, jobs and endpoints; shared pages count in each. None without `ps`."""

    @property
    def under_way(self) -> tuple[str, ...]:
        """What would be cut off: the runs, and the jobs where no run waits for them."""
        return self.runs or self.jobs


def activity() -> Activity | None:
    """None where no local AWS runs. Starts nothing."""
    aws, pid = reach(), status().pid
    if aws is None or pid is None:
        return None
    states, sagemaker = aws.client("stepfunctions"), aws.client("sagemaker")
    runs = [
        execution["name"]
        for machine in states.list_state_machines()["stateMachines"]
        if not machine["name"].endswith("-run-job")
        for execution in states.list_executions(stateMachineArn=machine["stateMachineArn"], statusFilter="RUNNING")[
            "executions"
        ]
    ]
    jobs = [
        job
        for status_ in ("InProgress", "Stopping")
        for job in sagemaker.list_training_jobs(StatusEquals=status_)["TrainingJobSummaries"]
    ]
    endpoints = [endpoint["EndpointName"] for endpoint in sagemaker.list_endpoints()["Endpoints"]]
    return Activity(
        runs=tuple(sorted(runs)),
        jobs=tuple(sorted(job["TrainingJobName"] for job in jobs)),
        waiting=tuple(sorted(job["TrainingJobName"] for job in jobs if job.get("SecondaryStatus") == PENDING)),
        endpoints=tuple(sorted(endpoints)),
        memory_mb=_resident_mb(pid),
    )


def _resident_mb(root: int) -> int | None:
    """Of a process and all that descend from it."""
    if (ps := shutil.which("ps")) is None:
        return None
    listing = subprocess.run([ps, "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True)
    rows = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    family = {root}
    while new := {pid for pid, parent, _ in rows if parent in family} - family:
        family |= new
    return round(sum(kilobytes for pid, _, kilobytes in rows if pid in family) / 1024)
