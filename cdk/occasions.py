"""Rules of EventBridge: what is waited for, what it starts, and where events lie that could not be delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct


def queues(environment: str) -> tuple[str, str]:
    """Names of an environment's dead-letter queues: of approvals and ended tunes, and of builds."""
    return f"stepforge-{environment}-approval-dead-letters", f"stepforge-{environment}-images-dead-letters"


def dead_letters(scope: Construct, queue_name: str) -> sqs.Queue:
    """The queue of a construct's events that were lost; an alarm watches it."""
    return sqs.Queue(
        scope,
        "DeadLetters",
        queue_name=queue_name,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=cdk.Duration.days(14),
    )


def handler(
    function: lambda_.IFunction, lost: sqs.IQueue, *, attempts: int = 10, hours: int = 6
) -> targets.LambdaFunction:
    """A handler as a target that is tried `attempts` times within `hours`."""
    return targets.LambdaFunction(
        function, dead_letter_queue=lost, retry_attempts=attempts, max_event_age=cdk.Duration.hours(hours)
    )


def on_event(
    scope: Construct,
    identifier: str,
    name: str,
    pattern: tuple[str, str],
    target: events.IRuleTarget,
    *,
    detail: dict[str, Sequence[Any] | dict[str, Any]] | None = None,
) -> events.Rule:
    """`pattern`: source and detail-type."""
    source, kind = pattern
    return events.Rule(
        scope,
        identifier,
        rule_name=name,
        event_pattern=events.EventPattern(source=[source], detail_type=[kind], detail=detail),
        targets=[target],
    )
