"""One host of a training job: its folder under the container's contract, its process, its log stream.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
Hosts are processes on this machine: their names do not resolve, so several of them meet at the address in
STEPFORGE_MEETING.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stepforge.local.sagemaker.context import Context
from stepforge.local.sagemaker.logs import LogStream
from stepforge.local.sagemaker.objects import CheckpointSync
from stepforge.local.sagemaker.processes import Process, base_environment

Json = Any
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FOLDERS = ("input/config", "input/data", "model", "output/data", "checkpoints", "code", "tmp")
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def host_names(job: Json) -> list[str]:
    return [f"algo-{number}" for number in range(1, job["ResourceConfig"].get("InstanceCount", 1) + 1)]


def free_address() -> str:
    """Where hosts may meet: loopback, and a port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Host:
    """`name` is one of the job's `names`; what it has lies below `folder`."""

    def __init__(self, context: Context, job: Json, name: str, *, names: Sequence[str], folder: Path) -> None:
        self._context, self._job, self._names = context, job, list(names)
        self.name = name
        self.base = folder / name / "ml"
        self.process: Process | None = None
        self.log: LogStream | None = None
        self.code: int | None = None
        """The process's exit code, once it has ended."""
        self._sync: CheckpointSync | None = None

    def prepare(self, meeting: str) -> None:
        """Lay out /opt/ml with this host's part of the inputs. Raises DownloadFailed."""
        self._meeting = meeting
        for folder in _FOLDERS:
            (self.base / folder).mkdir(parents=True)
        for name, value in self._configuration().items():
            (self.base / "input/config" / f"{name}.json").write_text(json.dumps(value))
        objects = self._context.objects
        for channel in self._job.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
            part = (self._names.index(self.name), len(self._names)) if sharded else (0, 1)
            target = self.base / "input/data" / channel["ChannelName"]
            objects.download(source["S3Uri"], target, required=True, part=part)
        uri = self._job.get("CheckpointConfig", {}).get("S3Uri")
        if uri is not None:
            kept = self.base / "checkpoints"
            objects.download(f"{uri.rstrip('/')}/", kept, required=False)
            self._sync = CheckpointSync(objects, kept, uri, encryption(self._job))

    def start(self, command: list[str], on_line: Callable[[str], None]) -> None:
        """`on_line` gets each line beside the log."""
        stream = f"{self._job['TrainingJobName']}/{self.name}-{int(self._job['CreationTime'])}"
        log = self.log = LogStream(self._context.cloudwatch_logs, LOG_GROUP, stream)

        def both(line: str) -> None:
            log.write(line)
            on_line(line)

        self.process = Process(command, folder=self.base, environment=self._environment(), on_line=both)

    def poll(self, seconds: float) -> int | None:
        """The exit code, or None after so many seconds."""
        if self.code is None and self.process is not None:
            self.code = self.process.wait(seconds)
        return self.code

    def terminate(self) -> None:
        if self.process is not None and self.code is None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None and self.process.running:
            self.process.kill()

    def copy_checkpoints(self, *, final: bool = False) -> None:
        if self._sync is not None:
            self._sync.step(final=final)

    def close(self) -> None:
        """End the process, and return when every line of it is sent."""
        self.kill()
        if self.process is not None:
            self.process.wait(10)
        if self.log is not None:
            self.log.close()

    def failure(self) -> str:
        """What the process wrote to output/failure, otherwise its last lines; with its exit code."""
        assert self.code is not None
        assert self.log is not None
        path, code = self.base / "output/failure", self.code if self.code > 0 else 128 - self.code
        text = path.read_text(errors="replace").strip() if path.is_file() else "\n".join(self.log.tail[-5:])
        ending = f", exit code: {code}"
        return f"AlgorithmError: {text[: 1024 - len(ending) - 16]}{ending}"

    def _configuration(self) -> dict[str, Json]:
        job = self._job
        instance = job["ResourceConfig"].get("InstanceType", "local")
        mode = job["AlgorithmSpecification"].get("TrainingInputMode", "File")
        group = {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": self._names}
        return {
            "hyperparameters": job.get("HyperParameters", {}),
            "resourceconfig": {
                "current_host": self.name,
                "hosts": self._names,
                "current_instance_type": instance,
                "current_group_name": "homogeneousCluster",
                "network_interface_name": _LOOPBACK,
                "instance_groups": [group],
            },
            "inputdataconfig": {
                channel["ChannelName"]: {
                    "TrainingInputMode": channel.get("InputMode", mode),
                    "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                        "S3DataDistributionType", "FullyReplicated"
                    ),
                    "RecordWrapperType": channel.get("RecordWrapperType", "None"),
                }
                for channel in job.get("InputDataConfig", [])
            },
        }

    def _environment(self) -> dict[str, str]:
        job, base, parameters = self._job, self.base, self._job.get("HyperParameters", {})
        channels = [channel["ChannelName"] for channel in job.get("InputDataConfig", [])]
        return {
            **base_environment(base / "tmp", credentials=not job["EnableNetworkIsolation"]),
            **self._context.variables(job["AlgorithmSpecification"]["TrainingImage"]),
            "SAGEMAKER_BASE_DIR": str(base),
            "TRAINING_JOB_NAME": job["TrainingJobName"],
            "TRAINING_JOB_ARN": job["TrainingJobArn"],
            "SM_MODEL_DIR": str(base / "model"),
            "SM_OUTPUT_DIR": str(base / "output"),
            "SM_OUTPUT_DATA_DIR": str(base / "output/data"),
            "SM_INPUT_DIR": str(base / "input"),
            "SM_INPUT_CONFIG_DIR": str(base / "input/config"),
            "SM_CHANNELS": json.dumps(channels),
            "SM_HPS": json.dumps(parameters),
            "SM_HOSTS": json.dumps(self._names),
            "SM_CURRENT_HOST": self.name,
            "SM_NUM_GPUS": "0",
            "SM_NUM_CPUS": str(os.cpu_count()),
            **({"STEPFORGE_MEETING": self._meeting} if len(self._names) > 1 else {}),
            **{f"SM_CHANNEL_{name.upper()}": str(base / "input/data" / name) for name in channels},
            **{f"SM_HP_{name.upper().replace('-', '_')}": value for name, value in parameters.items()},
            **job.get("Environment", {}),
        }


def encryption(job: Json) -> dict[str, str]:
    key = job["OutputDataConfig"].get("KmsKeyId")
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
