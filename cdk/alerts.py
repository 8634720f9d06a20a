"""Where alarms, budgets and failures are told: one encrypted topic, and the address of the environment's people."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk.settings import Settings

_SENDERS = ("cloudwatch", "budgets", "events")


def topic_name(settings: Settings) -> str:
    return f"stepforge-{settings.name}-alerts"


class Alerts(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, key: kms.IKey) -> None:
        super().__init__(scope, "Alerts")
        self.topic = sns.Topic(self, "Topic", topic_name=topic_name(settings), master_key=key, enforce_ssl=True)
        for sender in _SENDERS:
            self.topic.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[iam.ServicePrincipal(f"{sender}.amazonaws.com")],
                    actions=["sns:Publish"],
                    resources=[self.topic.topic_arn],
                    conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}},
                )
            )
        if settings.email:
            sns.Subscription(
                self,
                "Email",
                topic=self.topic,
                protocol=sns.SubscriptionProtocol.EMAIL,
                endpoint=settings.email,
            )


def alarm(
    scope: Construct,
    identifier: str,
    *,
    name: str,
    says: str,
    runbook: str,
    metric: cloudwatch.IMetric,
    threshold: float = 1,
    periods: int = 1,
) -> None:
    """An alarm at `threshold` or above, in each of `periods`; no data is no alarm.

    `runbook` is the heading in docs/runbooks.md under which stands what to do: the message says it.
    """
    cloudwatch.Alarm(
        scope,
        identifier,
        alarm_name=name,
        alarm_description=f'{says}. docs/runbooks.md: "{runbook}"',
        metric=metric,
        threshold=threshold,
        evaluation_periods=periods,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
    )


def tell(stack: Stack, topic: sns.ITopic) -> list[str]:
    """Give every alarm of a stack the topic as its action; their names. A new alarm cannot forget it."""
    alarms = [child for child in stack.node.find_all() if isinstance(child, cloudwatch.Alarm)]
    for alarm in alarms:
        alarm.add_alarm_action(actions.SnsAction(topic))
        alarm.add_ok_action(actions.SnsAction(topic))
    return [str(plain.alarm_name) for plain in stack.node.find_all() if isinstance(plain, cloudwatch.CfnAlarm)]
