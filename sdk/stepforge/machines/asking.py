"""A person is asked: the question and the token that answers it, where people look for it."""

from __future__ import annotations

from typing import Any

from stepforge.artifacts import write_json
from stepforge.contracts.names import Keys
from stepforge.contracts.requests import PendingApproval


def ask(s3: Any, pending: PendingApproval, *, bucket: str, key_arn: str) -> None:
    """Keep a question in the bucket. A retry of the task has a token of its own, and the last one counts."""
    write_json(s3, pending, bucket=bucket, key=Keys.approval(pending.name), key_arn=key_arn)


def notify(sns: Any, pending: PendingApproval, *, topic_arn: str, environment: str) -> None:
    """Tell the approvers, without the token: whoever reads the mail must not be able to answer by that alone."""
    request = pending.request
    lines = [
        request.question,
        "",
        f"about: {request.subject}",
        *(f"{name}: {value}" for name, value in sorted(request.details.items())),
        "",
        f"Answer with: stepforge approvals answer {pending.name} --yes|--no --reason WHY --env {environment}",
    ]
    sns.publish(TopicArn=topic_arn, Subject=f"stepforge {environment}: {request.kind}"[:100], Message="\n".join(lines))
