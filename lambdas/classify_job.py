"""Step Functions `run-job`: the outcome of an attempt that ended, or the typed error that says why there is none.

Its cost goes into the ledger."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.jobs import JobOutcome
from stepforge.economics import ledger
from stepforge.machines.attempts import Ended, outcome


class Environment(Variables):
    bucket: str
    key_arn: str


@handles
def handler(request: Ended) -> JobOutcome:
    env, sagemaker, s3 = variables(Environment), client("sagemaker"), client("s3")
    # However it ended, it was billed.
    ledger.try_to_book(sagemaker, s3, request.attempt.name, bucket=env.bucket, key_arn=env.key_arn)
    return outcome(sagemaker, s3, request, bucket=env.bucket)
