"""Denies that no grant undoes: training jobs without network or keys, and those above the limits.

They hold the role that creates jobs and, in their policy, the trainers. An organisation that wants them for every role
of an account attaches the same document as a service control policy: `python -m cdk.guardrails prod` prints it.
Misspelt condition keys are no error to IAM, so tests compare them with those that SageMaker has.
"""

from __future__ import annotations

import json
import sys

from aws_cdk import aws_iam as iam

from cdk.policies import deny, deny_unguarded_jobs
from cdk.settings import Settings, settings

_JOBS = ["sagemaker:CreateTrainingJob"]


def guardrails(given: Settings) -> list[iam.PolicyStatement]:
    """The statements of an environment."""
    types = {"sagemaker:InstanceTypes": list(given.limits.instance_types)}
    longest = {"sagemaker:MaxRuntimeInSeconds": str(given.limits.hours * 3600)}
    return [
        *deny_unguarded_jobs(vpc=given.jobs_need_vpc),
        deny(_JOBS, ["*"], **{"ForAnyValue:StringNotLike": types}),
        # A job that names no type, as a serverless one, has none that is not like ours.
        deny(_JOBS, ["*"], Null={"sagemaker:InstanceTypes": "true"}),
        # IfExists: what a request does not say is not within the limits either.
        deny(_JOBS, ["*"], NumericGreaterThanIfExists=longest),
        deny(_JOBS, ["*"], BoolIfExists={"sagemaker:InterContainerTrafficEncryption": "false"}),
    ]


if __name__ == "__main__":
    found = [statement.to_statement_json() for statement in guardrails(settings(sys.argv[1]))]
    print(json.dumps({"Version": "2012-10-17", "Statement": found}, indent=2))
