"""Submit one job with sagemaker's ModelTrainer, in the environment that has it. Reads JSON, prints one line of JSON.

In: endpoint_url, access_key_id, secret_access_key, region, spec. Out: job, seconds (of ModelTrainer alone), calls.
"""

from __future__ import annotations

import json
import sys
import time

import boto3

from stepforge.connection import Connection
from stepforge.contracts.jobs import JobSpec
from stepforge.submitting.sagemaker_trainer import model_trainer


def main(given: dict[str, str]) -> dict[str, object]:
    session = boto3.Session(given["access_key_id"], given["secret_access_key"], region_name=given["region"])
    connection = Connection("local", session, endpoint_url=given["endpoint_url"])
    calls: list[str] = []
    started = time.perf_counter()
    import sagemaker.train

    imported = time.perf_counter()
    trainer = model_trainer(connection, JobSpec.model_validate_json(given["spec"]))
    client = connection.client("sagemaker")
    for events in (connection.session.events, client.meta.events):
        events.register("before-call", lambda model, **_: calls.append(model.name))
    began = time.perf_counter()
    trainer.train(wait=False, logs=False)
    ended = time.perf_counter()
    return {
        "job": trainer._latest_training_job.training_job_name,
        "version": getattr(sagemaker.train, "__version__", ""),
        "import_seconds": imported - started,
        "seconds": ended - began,
        "calls": calls,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
