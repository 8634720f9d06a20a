"""Small containers and state machines that the tests of the local AWS run."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepforge.local import Image, LocalAws, register_images

Json = Any
ROLE = "arn:aws:iam::000000000000:role/service"
ECR = "000000000000.dkr.ecr.us-east-1.amazonaws.com"

TRAIN = """
import json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
hp = json.loads((base / "input/config/hyperparameters.json").read_text())
checkpoint = base / "checkpoints" / "step"
start = int(checkpoint.read_text()) if checkpoint.exists() else 0
def save(step):
    temporary = checkpoint.with_name(".step.tmp"); temporary.write_text(str(step)); temporary.replace(checkpoint)
def end(*_):
    (base / "model/ended").write_text("by signal"); sys.exit(0)
if hp.get("deaf") != "1":
    signal.signal(signal.SIGTERM, end)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("start", start, flush=True)
for step in range(start, int(hp.get("steps", "2"))):
    time.sleep(float(hp.get("seconds", "0.05")))
    save(step + 1); print(f"loss={1 / (step + 1):.3f}", flush=True)
    if start == 0 and str(step + 1) == hp.get("hold_at"): time.sleep(600)  # until it is cut off
if "fail" in hp:
    (base / "output/failure").write_text(hp["fail"]); sys.exit(3)
if "kill" in hp and start == 0: os.kill(os.getpid(), 9)
data = base / "input/data"
(base / "model/weights.txt").write_text(json.dumps({"start": start, "argv": sys.argv[1:],
    "channels": {p.relative_to(data).as_posix(): p.read_text() for p in sorted(data.rglob("*")) if p.is_file()},
    "secret": "AWS_SECRET_ACCESS_KEY" in os.environ, "offline": os.environ["HF_HUB_OFFLINE"]}))
(base / "model/manifest.json").write_text("{}")
"""

SERVE = """
import http.server, os, pathlib, sys
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
weights = (base / "model/weights.txt").read_text()
if weights == "broken": sys.exit("these weights are broken")
class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status); self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.reply(200, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"die": os._exit(1)
        self.reply(500 if body == b"fail" else 200, weights.encode() + b":" + body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


def register(name: str = "demo") -> str:
    """Register an image and return its address."""
    register_images({f"{ECR}/{name}": Image(argv_train=("python", "-c", TRAIN), argv_serve=("python", "-c", SERVE))})
    return f"{ECR}/{name}@sha256:{'0' * 64}"


def wait(read: Callable[[], Any], until: Callable[[Any], bool], *, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = read()
        if until(value):
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.03)


def said_in(path: Path) -> str:
    """Of a file that comes and goes with the job that writes it; empty while there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def bucket(aws: LocalAws, name: str = "artifacts") -> str:
    aws.client("s3").create_bucket(Bucket=name)
    return name


def job_request(
    name: str, image: str, *, bucket: str = "artifacts", hyperparameters: dict[str, str] | None = None, **more: Json
) -> Json:
    request = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "HyperParameters": hyperparameters or {},
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/jobs", "CompressionType": "NONE"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "EnableNetworkIsolation": True,
    }
    return request | more


def ended(aws: LocalAws, job: str, *, seconds: float = 20) -> Json:
    sagemaker = aws.client("sagemaker")
    return wait(
        lambda: sagemaker.describe_training_job(TrainingJobName=job),
        lambda d: d["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"),
        seconds=seconds,
    )


def zipped(source: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("index.py", source)
    return archive.getvalue()


def function(aws: LocalAws, name: str, source: str, **more: Json) -> str:
    request = {"FunctionName": name, "Runtime": "python3.11", "Role": ROLE, "Handler": "index.handler", **more}
    return aws.client("lambda").create_function(**request, Code={"ZipFile": zipped(source)})["FunctionArn"]


def machine(aws: LocalAws, name: str, states: Json, *, start: str | None = None) -> str:
    definition = {"StartAt": start or next(iter(states)), "States": states}
    return aws.client("stepfunctions").create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)[
        "stateMachineArn"
    ]


def execution_ended(aws: LocalAws, arn: str, *, seconds: float = 20) -> Json:
    sfn = aws.client("stepfunctions")
    return wait(lambda: sfn.describe_execution(executionArn=arn), lambda d: d["status"] != "RUNNING", seconds=seconds)


def run_machine(aws: LocalAws, name: str, states: Json, input: Json = None, *, seconds: float = 20) -> Json:
    arn = machine(aws, name, states)
    started = aws.client("stepfunctions").start_execution(stateMachineArn=arn, input=json.dumps(input or {}))
    return execution_ended(aws, started["executionArn"], seconds=seconds)
