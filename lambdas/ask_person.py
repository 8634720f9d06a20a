"""Step Functions `approve`: keep the question where approvers find it, and tell them. The token waits for an answer."""

from __future__ import annotations

from _runtime import Variables, client, handles, variables
from stepforge.contracts.requests import ApprovalRequest, PendingApproval
from stepforge.machines.asking import ask, notify


class Environment(Variables):
    bucket: str
    key_arn: str
    topic_arn: str
    environment: str


@handles
def handler(request: PendingApproval) -> ApprovalRequest:
    env = variables(Environment)
    ask(client("s3"), request, bucket=env.bucket, key_arn=env.key_arn)
    notify(client("sns"), request, topic_arn=env.topic_arn, environment=env.environment)
    # Not the request: answers are logged, and it holds the token.
    return request.request
