"""Training jobs as they run: which is next, and one attempt at one, with a process for each of its hosts.

A spot job is interrupted on request, by the tag `stepforge:local-interrupt` (`stepforge local interrupt JOB`): SIGTERM,
the grace, then the same job again from its checkpoints. Billable are the seconds in which it ran; the lower price of a
spot instance is not made up.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from typing import Any, Literal

from stepforge.local.capacity import REFUSAL, missing_types
from stepforge.local.sagemaker import jobs
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.hosts import Host, encryption, free_address, host_names
from stepforge.local.sagemaker.objects import DownloadFailed
from stepforge.local.sagemaker.processes import KILLED

logger = logging.getLogger(__name__)
Json = Any
_SYNC_SECONDS = 1.0
_MOURNING_SECONDS = 10.0
"""How long the other hosts of a job may go on after one has failed."""
Cause = Literal["Stopped", "MaxRuntimeExceeded", "MaxWaitTimeExceeded", "Interrupted", "HostFailed"]
"""Why a job was ended that would have gone on."""


def stop_seconds() -> float:
    """Between SIGTERM and SIGKILL: 120 on SageMaker."""
    return float(os.environ.get("STEPFORGE_LOCAL_STOP_SECONDS", "120"))


def parallel_jobs() -> int:
    """How many jobs run at once; the others wait."""
    return int(os.environ.get("STEPFORGE_LOCAL_JOBS", "1"))


class Scheduler:
    """Starts jobs in the order in which they were created, a few at a time, and takes up those that a crash cut off."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running: dict[str, JobRun] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="training-jobs", daemon=True)

    def start(self) -> None:
        for job in self._context.store.all("job"):
            if job["TrainingJobStatus"] not in jobs.ENDED:
                recover(self._context, job)
        self._thread.start()

    def stop(self) -> None:
        """Kill what runs, without a word in the store: the next start recovers it."""
        self._ending.set()
        self._context.jobs_changed()
        self._thread.join()
        for run in list(self._running.values()):
            run.abandon()

    def _loop(self) -> None:
        while not self._ending.is_set():
            # A run says that it is done a moment before its thread is.
            self._context.jobs_wanted.wait(0.2 if self._running else 1)
            self._context.jobs_wanted.clear()
            try:
                self._step()
            except Exception:
                logger.exception("the scheduler of training jobs stumbled; it goes on")

    def _step(self) -> None:
        self._running = {name: run for name, run in self._running.items() if run.alive}
        for job in sorted(self._context.store.all("job"), key=lambda j: j["CreationTime"]):
            name, status = job["TrainingJobName"], job["TrainingJobStatus"]
            if status not in ("InProgress", "Stopping"):
                continue
            asked = jobs.take_interruption(self._context, job)
            if name in self._running:
                if status == "Stopping":
                    self._running[name].stop()
                elif asked:
                    self._running[name].interrupt()
            elif status == "Stopping":
                _end(self._context, job, "Stopped", "Stopped")
            elif time.time() > waits_until(job):
                _end(self._context, job, "Stopped", "MaxWaitTimeExceeded")
            elif not self._ending.is_set():
                self._begin(job)

    def _begin(self, job: Json) -> None:
        name = job["TrainingJobName"]
        if job["ResourceConfig"].get("InstanceType") in missing_types(self._context.layout):
            # Spot capacity is waited for, within the job's limit; anything else is refused.
            if job["EnableManagedSpotTraining"]:
                self._wait(job, "Insufficient capacity error from EC2 while launching instances, retrying!")
            else:
                _end(self._context, job, "Failed", "Failed", REFUSAL)
        elif len(self._running) < parallel_jobs():
            self._running[name] = JobRun(self._context, name)
        else:
            self._wait(job, f"Waits for {', '.join(self._running)} to end")

    def _wait(self, job: Json, message: str) -> None:
        if job["SecondaryStatusTransitions"][-1].get("StatusMessage") != message:
            jobs.transition(self._context, job, "Pending", message=message)


def waits_until(job: Json) -> float:
    """When a spot job has waited and run long enough, in seconds of the epoch; never for another job."""
    if not job["EnableManagedSpotTraining"]:
        return float("inf")
    return float(job["CreationTime"] + job["StoppingCondition"]["MaxWaitTimeInSeconds"])


def recover(context: Context, job: Json) -> None:
    """A job that was cut off by the end of the server: again where its RetryStrategy allows, else failed."""
    if job["Attempts"] == 0 and job["TrainingJobStatus"] == "InProgress":
        return
    reason = "InternalServerError: the local server stopped while the job ran"
    if job["TrainingJobStatus"] == "Stopping":
        _end(context, job, "Stopped", "Stopped")
    elif not _restart(context, job, reason):
        _end(context, job, "Failed", "Failed", reason)
    shutil.rmtree(context.layout.jobs / job["TrainingJobName"], ignore_errors=True)


def _restart(context: Context, job: Json, reason: str) -> bool:
    """https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_RetryStrategy.html"""
    retries = job["Attempts"] - job.get("Interruptions", 0)
    if retries > job.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0):
        return False
    jobs.transition(context, job, "Restarting", message=reason)
    context.jobs_changed()
    return True


def _end(
    context: Context, job: Json, status: Literal["Completed", "Failed", "Stopped"], secondary: str, reason: str = ""
) -> None:
    """Record the end, all at once and only when everything that it tells of is on disk."""
    job["TrainingEndTime"] = now = time.time()
    if (started := job.get("TrainingStartTime")) is not None:
        seconds = max(1, round(now - started))
        billable = max(1, round(job["RanSeconds"])) if job.get("RanSeconds") is not None else seconds
        job |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": min(billable, seconds)}
    if reason:
        job["FailureReason"] = reason[:1024]
    context.checkpoint()
    jobs.transition(context, job, secondary, status=status, message=reason[:1024])
    logger.info("job ended: name=%s status=%s reason=%s", job["TrainingJobName"], status, reason[:200])


class JobRun:
    """One attempt at one job, in a thread of its own."""

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, name
        self._stop, self._abandoned, self._interrupted = threading.Event(), threading.Event(), threading.Event()
        self._folder = context.layout.jobs / name
        self._metrics: dict[str, tuple[float, float]] = {}
        self._hosts: list[Host] = []
        self._thread = threading.Thread(target=self._run, name=f"job-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()

    def interrupt(self) -> None:
        self._interrupted.set()

    def abandon(self) -> None:
        self._abandoned.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._attempt()
        except (DownloadFailed, ServiceError) as error:
            _end(self._context, self._job(), "Failed", "Failed", f"ClientError: {error}")
        except Exception as error:
            logger.exception("job %s", self._name)
            if not self._abandoned.is_set():
                self._fail(f"InternalServerError: {error!r}")
        finally:
            for host in self._hosts:
                host.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._context.jobs_changed()

    def _fail(self, reason: str) -> None:
        job = self._job()
        try:
            if not _restart(self._context, job, reason):
                _end(self._context, job, "Failed", "Failed", reason)
        except (OSError, sqlite3.Error):
            # As on a full disk. A server that went on would start the job again and again, and nobody would hear of it.
            logger.exception("the end of job %s cannot be recorded, so the server ends: %s", self._name, reason)
            os.kill(os.getpid(), signal.SIGTERM)

    def _job(self) -> Json:
        return self._context.store.get("job", self._name)

    def _move(self, secondary: str, message: str, **changes: Json) -> Json:
        """A transition of the job as it stands: StopTrainingJob may have written it meanwhile."""
        with self._context.store.transaction():
            job = self._job()
            job |= changes
            jobs.transition(self._context, job, secondary, message=message)
        return job

    def _record(self, **changes: Json) -> None:
        with self._context.store.transaction():
            self._context.store.put("job", self._name, self._job() | changes)

    def _attempt(self) -> None:
        job = self._move("Downloading", "Downloading input data", Attempts=self._job()["Attempts"] + 1)
        command = self._command(job)
        shutil.rmtree(self._folder, ignore_errors=True)
        names, meeting = host_names(job), free_address()
        self._hosts = [Host(self._context, job, name, names=names, folder=self._folder) for name in names]
        for host in self._hosts:
            host.prepare(meeting)
        started = time.time()
        job = self._move(
            "Training",
            "Training image download completed. Training in progress.",
            TrainingStartTime=job.get("TrainingStartTime", started),
        )
        for host in self._hosts:
            host.start(command, self._line)
        cause = self._watch(job)
        for host in self._hosts:
            host.kill()
            host.poll(10)
            host.copy_checkpoints(final=True)
        if self._abandoned.is_set():
            return
        self._record(RanSeconds=job.get("RanSeconds", 0.0) + time.time() - started)
        for host in self._hosts:
            host.close()
        self._finish(cause)

    def _command(self, job: Json) -> list[str]:
        algorithm = job["AlgorithmSpecification"]
        self._context.check_pinned(algorithm["TrainingImage"])
        # Docker appends SageMaker's argument to an image's ENTRYPOINT.
        return [
            *self._context.command(algorithm["TrainingImage"], "train"),
            *algorithm.get("ContainerArguments", ["train"]),
        ]

    def _line(self, line: str) -> None:
        for metric in self._definitions:
            if found := metric[1].search(line):
                try:
                    self._metrics[metric[0]] = (float(found.group(1)), time.time())
                except (ValueError, IndexError):
                    continue

    @property
    def _definitions(self) -> list[tuple[str, re.Pattern[str]]]:
        if not hasattr(self, "_compiled"):
            definitions = self._job()["AlgorithmSpecification"].get("MetricDefinitions", [])
            self._compiled = [(metric["Name"], re.compile(metric["Regex"])) for metric in definitions]
        return self._compiled

    def _watch(self, job: Json) -> Cause | None:
        """Until every host has ended, or the server goes away: why they were ended, where they were."""
        allowed = job["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400) - job.get("RanSeconds", 0.0)
        limit, wait_limit = time.monotonic() + allowed, waits_until(job)
        cause: Cause | None = None
        kill_at, due = float("inf"), time.monotonic() + _SYNC_SECONDS
        while None in [host.poll(0.05 / len(self._hosts)) for host in self._hosts]:
            now = time.monotonic()
            if self._abandoned.is_set():
                return cause
            if cause is None and (cause := self._reason(over=now > limit, waited=time.time() > wait_limit)) is not None:
                if cause.startswith("Max"):
                    self._move("Stopping", f"The job is over its limit: {cause}")
                kill_at = now + (_MOURNING_SECONDS if cause == "HostFailed" else stop_seconds())
                for host in self._hosts:
                    host.terminate()
            if now > kill_at:
                for host in self._hosts:
                    host.kill()
            if now > due:
                for host in self._hosts:
                    host.copy_checkpoints()
                due = time.monotonic() + _SYNC_SECONDS
        return cause

    def _reason(self, *, over: bool, waited: bool) -> Cause | None:
        if self._stop.is_set():
            return "Stopped"
        if self._interrupted.is_set():
            return "Interrupted"
        if any(host.code for host in self._hosts):
            self._failed = next(host for host in self._hosts if host.code)
            return "HostFailed"
        return "MaxRuntimeExceeded" if over else "MaxWaitTimeExceeded" if waited else None

    def _finish(self, cause: Cause | None) -> None:
        if cause == "Interrupted":
            self._interrupt()
            return
        failed = self._failed if cause == "HostFailed" else next((host for host in self._hosts if host.code), None)
        if cause in (None, "HostFailed") and failed is not None:
            job = self._job()
            if failed.code != KILLED:
                _end(self._context, job, "Failed", "Failed", failed.failure())
                return
            reason = "InternalServerError: the training process was killed (SIGKILL), perhaps for want of memory"
            if not _restart(self._context, job, reason):
                _end(self._context, job, "Failed", "Failed", reason)
            return
        self._upload(self._move("Uploading", "Uploading generated training model"))
        job = self._job()
        job["FinalMetricDataList"] = [
            {"MetricName": name, "Value": value, "Timestamp": at} for name, (value, at) in self._metrics.items()
        ]
        if cause is None:
            _end(self._context, job, "Completed", "Completed")
        else:
            _end(self._context, job, "Stopped", cause)

    def _interrupt(self) -> None:
        """As https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html has it: start again."""
        self._move(
            "Interrupted",
            "Job stopped because the managed spot training instances were interrupted",
            Interruptions=self._job().get("Interruptions", 0) + 1,
        )
        self._context.checkpoint()
        self._move("Starting", "Preparing the instances for training")

    def _upload(self, job: Json) -> None:
        """What the hosts wrote, in one place: their file names must not clash, as SageMaker asks.

        https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html
        """
        objects, extra, uri = self._context.objects, encryption(job), job["ModelArtifacts"]["S3ModelArtifacts"]
        for folder, name in (("output/data", "output"), ("model", "model")):
            roots = [host.base / folder for host in self._hosts]
            if name == "output" and not any(any(root.iterdir()) for root in roots):
                continue
            if job["OutputDataConfig"].get("CompressionType") == "NONE":
                objects.upload_folders(roots, uri if name == "model" else uri.removesuffix("model/") + "data", extra)
            else:
                objects.upload_archive(roots, uri.removesuffix("model.tar.gz") + f"{name}.tar.gz", extra)
