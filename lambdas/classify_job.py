"""Step Functions `run-job`: the outcome of an attempt that ended, or the typed error that says why there is none."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.attempts import Ended, outcome
from stepforge.contracts.jobs import JobOutcome


class Environment(Variables):
    bucket: str


@handles
def handler(request: Ended) -> JobOutcome:
    return outcome(client("sagemaker"), client("s3"), request, bucket=variables(Environment).bucket)
