"""Real training processes on the local AWS: several hosts, and spot instances that are taken away while they train."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.functional.jobs.conftest import World
from tests.functional.local_aws.helpers import ECR, bucket, ended, job_request, said_in, wait
from tests.support import forked
from tests.support.job_folders import ROOT, job_folder

from stepforge.contracts.jobs import JobSpec
from stepforge.contracts.manifests import MANIFEST, sha256_of
from stepforge.contracts.metrics import MEASURED
from stepforge.contracts.work import LocalModel, SftWork, TrainingWork
from stepforge.following.jobs_log import LogTail
from stepforge.local import Image, LocalAws, register_images
from stepforge_jobs.launch import PROCESSES

BUCKET = "training"
IMAGE = f"{ECR}/training@sha256:{'0' * 64}"
EVERY = 5
PROGRAM = """
import json, os, pathlib, signal, sys, time
from stepforge_jobs import main
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
given = json.loads((base / "input/config/hyperparameters.json").read_text())
pauses = json.loads(given.get("pauses", "{}"))
past = base / "checkpoints/pauses.json"

def pause(step):
    # Stop at the beginning of a step until the instance is taken away: in time, or past the grace.
    done = json.loads(past.read_text()) if past.exists() else []
    if str(step) not in pauses or step in done:
        return
    past.write_text(json.dumps([*done, step]))
    told, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *signals: (told.append(1), before(*signals)))
    aside = base / "output/paused.tmp"
    aside.write_text(str(step))
    aside.replace(base / "output/paused")
    while not told or pauses[str(step)] == "kill":
        time.sleep(.01)

if pauses:
    from stepforge_jobs.training import loop
    original = loop.learning_rate
    loop.learning_rate = lambda work, at: (pause(at), original(work, at))[1]
sys.exit(main.main(["train"]))
"""


@pytest.fixture(scope="module")
def cloud(local_aws: LocalAws) -> LocalAws:
    bucket(local_aws, BUCKET)
    path = os.pathsep.join([str(ROOT / "sdk"), str(ROOT / "jobs")])
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    argv = {"": ("python", "-c", PROGRAM), "-plain": ("python", "-m", "stepforge_jobs.main")}
    register_images(
        {f"{ECR}/training{name}": Image(argv_train=command, environment=variables) for name, command in argv.items()}
    )
    return local_aws


def upload(aws: LocalAws, folder: Path, key: str) -> dict[str, Any]:
    """A channel of a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{key}/{path.relative_to(folder).as_posix()}"
            aws.client("s3").put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{key}/", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": key.rpartition("/")[2], "DataSource": {"S3DataSource": source}}


def channels(aws: LocalAws, world: World, work: TrainingWork, base: Path) -> list[dict[str, Any]]:
    """The inputs of a job; `base` becomes the folder of the same job for a process beside it."""
    job_folder(base, work, start=LocalModel(), model=world.base, **world.inputs)
    folders = {"spec": base / "input/data/spec", "model": world.base, **world.inputs}
    return [upload(aws, folder, f"{base.name}/{name}") for name, folder in folders.items()]


def job_of(base: Path, attempt: int) -> str:
    """The name of an attempt at the spec in `base`: a job runs no other."""
    return f"{JobSpec.model_validate_json((base / 'input/data/spec/spec.json').read_bytes()).prefix}-a{attempt}"


def model_of(aws: LocalAws, job: str, folder: Path) -> Path:
    """What a job left, without the manifest, which says when it was written."""
    done = ended(aws, job, seconds=500)
    assert done["TrainingJobStatus"] == "Completed", done.get("FailureReason")
    prefix = f"jobs/{job}/output/model/"
    s3 = aws.client("s3")
    for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
        path = folder / item["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())
    assert (folder / MANIFEST).is_file()
    return folder


@pytest.mark.slow
def test_two_hosts_learn_the_very_weights_of_two_processes_on_one(
    cloud: LocalAws, world: World, tmp_path: Path
) -> None:
    inputs = channels(cloud, world, SftWork(steps=8, checkpoint_every=4, batch_size=8), tmp_path / "hosts")
    sagemaker = cloud.client("sagemaker")
    names = [job_of(tmp_path / "hosts", attempt) for attempt in (0, 1)]
    for name, count, processes in zip(names, (2, 1), ("1", "2"), strict=True):
        image = IMAGE.replace("training@", "training-plain@")
        request = job_request(name, image, bucket=BUCKET, InputDataConfig=inputs, Environment={PROCESSES: processes})
        request["ResourceConfig"]["InstanceCount"] = count
        sagemaker.create_training_job(**request)
    two, one = (model_of(cloud, name, tmp_path / name) for name in names)
    assert sha256_of(two / "model.safetensors") == sha256_of(one / "model.safetensors")
    rows = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (two, one)]
    told = [[{name: value for name, value in row.items() if name not in MEASURED} for row in of] for of in rows]
    assert told[0] == told[1]
    assert len(told[0]) == 8


@pytest.mark.slow
def test_a_spot_job_that_trains_loses_an_interval_at_most_and_ends_with_the_same_weights(
    cloud: LocalAws, world: World, tmp_path: Path
) -> None:
    """Twenty times; every second process takes no notice of SIGTERM and is killed after the grace."""
    count = 20
    steps = 4 * count
    work = SftWork(steps=steps, checkpoint_every=EVERY, batch_size=8)
    inputs = channels(cloud, world, work, tmp_path / "spot")
    name = job_of(tmp_path / "spot", 0)
    at = sorted(random.Random(count).sample(range(1, steps), count))
    how = {step: ("term", "kill")[number % 2] for number, step in enumerate(at)}
    request = job_request(
        name,
        IMAGE,
        bucket=BUCKET,
        hyperparameters={"pauses": json.dumps(how)},
        InputDataConfig=inputs,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 900, "MaxWaitTimeInSeconds": 900},
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/checkpoints/{name}/"},
    )
    sagemaker = cloud.client("sagemaker")
    arn = sagemaker.create_training_job(**request)["TrainingJobArn"]
    paused = cloud.home / "local/jobs" / name / "algo-1/ml/output/paused"
    for step in at:
        wait(
            lambda: said_in(paused),
            lambda said, step=step: said == str(step),
            seconds=120,
        )
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "stepforge:local-interrupt", "Value": "now"}])
    model = model_of(cloud, name, tmp_path / "model")
    whole = forked.succeed(tmp_path / "spot")
    assert sha256_of(model / "model.safetensors") == sha256_of(whole / "model.safetensors")

    lines = [line.text for line in LogTail(cloud.client("logs"), name).read()]
    said = [json.loads(line) for line in lines if line.startswith('{"event"')]
    begun: list[int] = []
    for row in said:
        if row["event"] == "started":
            begun.append(0)
        elif row["event"] == "resumed":
            begun[-1] = row["step"]
    assert len(begun) == count + 1
    lost = [step - start for step, start in zip(at, begun[1:], strict=True)]
    print(f"BENCH spot_{count}_interruptions_most_steps_lost {max(lost)}")
    assert max(lost) <= EVERY
    in_time = [gone for step, gone in zip(at, lost, strict=True) if how[step] == "term"]
    assert in_time == [-1] * len(in_time), "who hears of it in time finishes the step and keeps it"
    rows = [json.loads(line)["step"] for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, steps + 1)), "each step counts once"
