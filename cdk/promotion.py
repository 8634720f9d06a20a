"""An approval starts `promote`; a sweep heals lost events; what is lost for good lies in the dead-letter queue."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.functions import Functions
from cdk.machines import Machines
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, endpoint_name, package_group
from stepforge.contracts.serving import dimensions


class Promotion(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, functions: Functions, machines: Machines) -> None:
        super().__init__(scope, "Promotion")
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            queue_name=f"stepforge-{settings.name}-approval-dead-letters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        target, rejected = (
            targets.LambdaFunction(
                functions[name],
                dead_letter_queue=self.dead_letters,
                retry_attempts=10,
                max_event_age=cdk.Duration.hours(6),
            )
            for name in ("on_approval", "on_rejection")
        )
        events.Rule(
            self,
            "Approved",
            rule_name=f"stepforge-{settings.name}-approved",
            # Which field changed is looked at by the handler: AWS leaves the list out of some events.
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"], detail_type=["SageMaker Model Package State Change"]
            ),
            targets=[target],
        )
        events.Rule(
            self,
            "Rejected",
            rule_name=f"stepforge-{settings.name}-rejected",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Model Package State Change"],
                detail={"ModelApprovalStatus": ["Rejected"]},
            ),
            targets=[rejected],
        )
        events.Rule(
            self,
            "Sweep",
            rule_name=f"stepforge-{settings.name}-sweep",
            schedule=events.Schedule.rate(cdk.Duration.minutes(settings.sweep_minutes)),
            targets=[target],
        )
        self._alarms(settings, machines)

    def _alarms(self, settings: Settings, machines: Machines) -> None:
        self._alarm(
            "LostApprovals",
            f"stepforge-{settings.name}-lost-approvals",
            self.dead_letters.metric_approximate_number_of_messages_visible(statistic="Maximum"),
        )
        for name in MACHINES:
            identifier = "".join(part.title() for part in name.split("-"))
            self._alarm(
                f"{identifier}Failed", f"stepforge-{settings.name}-{name}-failed", machines[name].metric_failed()
            )
        for domain in settings.domains:
            endpoint = endpoint_name(package_group(domain, settings.name))
            # Named by the endpoint: a deployment that finds the alarm rolls back when it fires.
            errors = cloudwatch.Metric(
                namespace="AWS/SageMaker",
                metric_name="Invocation5XXErrors",
                dimensions_map=dimensions(endpoint, settings.serve_mode),
                statistic="Sum",
                period=cdk.Duration.minutes(1),
            )
            self._alarm(f"{domain.title()}Errors", f"{endpoint}-5xx", errors)

    def _alarm(self, identifier: str, name: str, metric: cloudwatch.IMetric) -> None:
        cloudwatch.Alarm(
            self,
            identifier,
            alarm_name=name,
            metric=metric,
            threshold=1,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
