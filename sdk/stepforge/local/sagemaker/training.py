"""A training job as it runs: a process under the contract of
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html

The container's `/opt/ml` is a folder named by SAGEMAKER_BASE_DIR. One host; no network of its own, no interruption.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Literal

from stepforge.local.capacity import REFUSAL, missing_types
from stepforge.local.sagemaker import jobs
from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.errors import ServiceError
from stepforge.local.sagemaker.logs import LogStream
from stepforge.local.sagemaker.objects import CheckpointSync, DownloadFailed
from stepforge.local.sagemaker.processes import KILLED, Process, base_environment

logger = logging.getLogger(__name__)
Json = Any
_SYNC_SECONDS = 1.0
LOG_GROUP = "/aws/sagemaker/TrainingJobs"


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
            self._context.jobs_wanted.wait(0.2 if self._running else 5)
            self._context.jobs_wanted.clear()
            try:
                self._step()
            except Exception:
                logger.exception("the scheduler of training jobs stumbled; it goes on")

    def _step(self) -> None:
        self._running = {name: run for name, run in self._running.items() if run.alive}
        for job in sorted(self._context.store.all("job"), key=lambda j: j["CreationTime"]):
            name, status = job["TrainingJobName"], job["TrainingJobStatus"]
            if name in self._running:
                if status == "Stopping":
                    self._running[name].stop()
            elif status == "Stopping":
                _end(self._context, job, "Stopped", "Stopped")
            elif status == "InProgress" and not self._ending.is_set():
                if job["ResourceConfig"].get("InstanceType") in missing_types(self._context.layout):
                    self._without_capacity(job)
                elif len(self._running) < parallel_jobs():
                    self._running[name] = JobRun(self._context, name)
                else:
                    self._wait(job, f"Waits for {', '.join(self._running)} to end")

    def _without_capacity(self, job: Json) -> None:
        """Spot capacity is waited for, within the job's limit; anything else is refused."""
        if not job["EnableManagedSpotTraining"]:
            _end(self._context, job, "Failed", "Failed", REFUSAL)
        elif time.time() > job["CreationTime"] + job["StoppingCondition"]["MaxWaitTimeInSeconds"]:
            _end(self._context, job, "Stopped", "MaxWaitTimeExceeded")
        else:
            self._wait(job, "Insufficient capacity error from EC2 while launching instances, retrying!")

    def _wait(self, job: Json, message: str) -> None:
        if job["SecondaryStatusTransitions"][-1].get("StatusMessage") != message:
            jobs.transition(self._context, job, "Pending", message=message)


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
    if job["Attempts"] > job.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0):
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
        job |= {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": seconds}
    if reason:
        job["FailureReason"] = reason[:1024]
    context.checkpoint()
    jobs.transition(context, job, secondary, status=status, message=reason[:1024])
    logger.info("job ended: name=%s status=%s reason=%s", job["TrainingJobName"], status, reason[:200])


class JobRun:
    """One attempt at one job, in a thread of its own."""

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, name
        self._stop, self._abandoned = threading.Event(), threading.Event()
        self._base = context.layout.jobs / name / "ml"
        self._metrics: dict[str, tuple[float, float]] = {}
        self._process: Process | None = None
        self._log: LogStream | None = None
        self._thread = threading.Thread(target=self._run, name=f"job-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()

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
            job = self._job()
            if not self._abandoned.is_set() and not _restart(self._context, job, f"InternalServerError: {error!r}"):
                _end(self._context, job, "Failed", "Failed", f"InternalServerError: {error!r}")
        finally:
            if self._process is not None and self._process.running:
                self._process.kill()
                self._process.wait(10)
            if self._log is not None:
                self._log.close()
            shutil.rmtree(self._base.parent, ignore_errors=True)
            self._context.jobs_changed()

    def _job(self) -> Json:
        return self._context.store.get("job", self._name)

    def _move(self, secondary: str, message: str, **changes: Json) -> Json:
        """A transition of the job as it stands: StopTrainingJob may have written it meanwhile."""
        with self._context.store.transaction():
            job = self._job()
            job |= changes
            jobs.transition(self._context, job, secondary, message=message)
        return job

    def _attempt(self) -> None:
        job = self._move("Downloading", "Downloading input data", Attempts=self._job()["Attempts"] + 1)
        command = self._command(job)
        self._prepare(job)
        sync = self._checkpoints(job)
        stream = f"{self._name}/algo-1-{int(job['CreationTime'])}"
        self._log = LogStream(self._context.cloudwatch_logs, LOG_GROUP, stream)
        started = time.time()
        job = self._move(
            "Training",
            "Training image download completed. Training in progress.",
            TrainingStartTime=job.get("TrainingStartTime", started),
        )
        self._process = Process(command, folder=self._base, environment=self._environment(job), on_line=self._line)
        cause, code = self._watch(job, sync)
        if code is None:
            self._process.kill()
            self._process.wait(10)
        if sync is not None:
            sync.step(final=True)
        if code is None:
            return
        self._log.close()
        self._finish(job, cause, code)

    def _command(self, job: Json) -> list[str]:
        algorithm = job["AlgorithmSpecification"]
        self._context.check_pinned(algorithm["TrainingImage"])
        # Docker appends SageMaker's argument to an image's ENTRYPOINT.
        return [
            *self._context.command(algorithm["TrainingImage"], "train"),
            *algorithm.get("ContainerArguments", ["train"]),
        ]

    def _prepare(self, job: Json) -> None:
        shutil.rmtree(self._base.parent, ignore_errors=True)
        for folder in ("input/config", "input/data", "model", "output/data", "checkpoints", "code", "tmp"):
            (self._base / folder).mkdir(parents=True)
        channels = job.get("InputDataConfig", [])
        instance = job["ResourceConfig"].get("InstanceType", "local")
        mode = job["AlgorithmSpecification"].get("TrainingInputMode", "File")
        config = {
            "hyperparameters": job.get("HyperParameters", {}),
            "resourceconfig": {
                "current_host": "algo-1",
                "hosts": ["algo-1"],
                "current_instance_type": instance,
                "current_group_name": "homogeneousCluster",
                "network_interface_name": "lo",
                "instance_groups": [
                    {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": ["algo-1"]}
                ],
            },
            "inputdataconfig": {
                channel["ChannelName"]: {
                    "TrainingInputMode": channel.get("InputMode", mode),
                    "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                        "S3DataDistributionType", "FullyReplicated"
                    ),
                    "RecordWrapperType": channel.get("RecordWrapperType", "None"),
                }
                for channel in channels
            },
        }
        for name, value in config.items():
            (self._base / "input/config" / f"{name}.json").write_text(json.dumps(value))
        for channel in channels:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            self._context.objects.download(uri, self._base / "input/data" / channel["ChannelName"], required=True)

    def _checkpoints(self, job: Json) -> CheckpointSync | None:
        uri = job.get("CheckpointConfig", {}).get("S3Uri")
        if uri is None:
            return None
        folder = self._base / "checkpoints"
        self._context.objects.download(f"{uri.rstrip('/')}/", folder, required=False)
        return CheckpointSync(self._context.objects, folder, uri, _encryption(job))

    def _environment(self, job: Json) -> dict[str, str]:
        base, parameters = self._base, job.get("HyperParameters", {})
        channels = [channel["ChannelName"] for channel in job.get("InputDataConfig", [])]
        return {
            **base_environment(base / "tmp", credentials=not job["EnableNetworkIsolation"]),
            "SAGEMAKER_BASE_DIR": str(base),
            "TRAINING_JOB_NAME": self._name,
            "TRAINING_JOB_ARN": job["TrainingJobArn"],
            "SM_MODEL_DIR": str(base / "model"),
            "SM_OUTPUT_DIR": str(base / "output"),
            "SM_OUTPUT_DATA_DIR": str(base / "output/data"),
            "SM_INPUT_DIR": str(base / "input"),
            "SM_INPUT_CONFIG_DIR": str(base / "input/config"),
            "SM_CHANNELS": json.dumps(channels),
            "SM_HPS": json.dumps(parameters),
            "SM_HOSTS": '["algo-1"]',
            "SM_CURRENT_HOST": "algo-1",
            "SM_NUM_GPUS": "0",
            "SM_NUM_CPUS": str(os.cpu_count()),
            **{f"SM_CHANNEL_{name.upper()}": str(base / "input/data" / name) for name in channels},
            **{f"SM_HP_{name.upper().replace('-', '_')}": value for name, value in parameters.items()},
            **job.get("Environment", {}),
        }

    def _line(self, line: str) -> None:
        assert self._log is not None
        self._log.write(line)
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

    def _watch(self, job: Json, sync: CheckpointSync | None) -> tuple[str | None, int | None]:
        """Why the job was ended, where it was, and its exit code; no code where the server goes away first."""
        process = self._process
        assert process is not None
        limit = time.monotonic() + job["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400)
        cause, kill_at, due = None, float("inf"), time.monotonic() + _SYNC_SECONDS
        while (code := process.wait(0.05)) is None:
            now = time.monotonic()
            if self._abandoned.is_set():
                return cause, None
            if cause is None and (self._stop.is_set() or now > limit):
                cause = "Stopped" if self._stop.is_set() else "MaxRuntimeExceeded"
                if cause == "MaxRuntimeExceeded":
                    self._move("Stopping", "The job ran for MaxRuntimeInSeconds")
                kill_at = now + stop_seconds()
                process.terminate()
            if now > kill_at:
                process.kill()
            if sync is not None and now > due:
                sync.step()
                due = time.monotonic() + _SYNC_SECONDS
        return cause, code

    def _finish(self, job: Json, cause: str | None, code: int) -> None:
        if cause is None and code == KILLED:
            job = self._job()
            reason = "InternalServerError: the training process was killed (SIGKILL), perhaps for want of memory"
            if not _restart(self._context, job, reason):
                _end(self._context, job, "Failed", "Failed", reason)
            return
        if cause is None and code != 0:
            _end(self._context, self._job(), "Failed", "Failed", self._failure(code))
            return
        job = self._move("Uploading", "Uploading generated training model")
        self._upload(job)
        job = self._job()
        job["FinalMetricDataList"] = [
            {"MetricName": name, "Value": value, "Timestamp": at} for name, (value, at) in self._metrics.items()
        ]
        if cause is None:
            _end(self._context, job, "Completed", "Completed")
        else:
            _end(self._context, job, "Stopped", cause)

    def _failure(self, code: int) -> str:
        path, code = self._base / "output/failure", code if code > 0 else 128 - code
        assert self._log is not None
        text = path.read_text(errors="replace").strip() if path.is_file() else "\n".join(self._log.tail[-5:])
        ending = f", exit code: {code}"
        return f"AlgorithmError: {text[: 1024 - len(ending) - 16]}{ending}"

    def _upload(self, job: Json) -> None:
        objects, extra, uri = self._context.objects, _encryption(job), job["ModelArtifacts"]["S3ModelArtifacts"]
        flat = job["OutputDataConfig"].get("CompressionType") == "NONE"
        data: Path = self._base / "output/data"
        if any(data.iterdir()):
            if flat:
                objects.upload_folder(data, uri.removesuffix("model/") + "data", extra)
            else:
                objects.upload_archive(data, uri.removesuffix("model.tar.gz") + "output.tar.gz", extra)
        if flat:
            objects.upload_folder(self._base / "model", uri, extra)
        else:
            objects.upload_archive(self._base / "model", uri, extra)


def _encryption(job: Json) -> dict[str, str]:
    key = job["OutputDataConfig"].get("KmsKeyId")
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
