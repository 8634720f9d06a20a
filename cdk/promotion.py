"""An approval starts `promote`; a sweep heals lost events; what is lost for good lies in the dead-letter queue."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from constructs import Construct

from cdk.functions import Functions
from cdk.machines import Machines
from cdk.occasions import dead_letters, handler, on_event
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, endpoint_name, package_group
from stepforge.contracts.serving import dimensions


class Promotion(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, functions: Functions, machines: Machines) -> None:
        super().__init__(scope, "Promotion")
        self.dead_letters = dead_letters(self, f"stepforge-{settings.name}-approval-dead-letters")
        approved, rejected = (handler(functions[name], self.dead_letters) for name in ("on_approval", "on_rejection"))
        changed = ("aws.sagemaker", "SageMaker Model Package State Change")
        # Which field changed is looked at by the handler: AWS leaves the list out of some events.
        on_event(self, "Approved", f"stepforge-{settings.name}-approved", changed, approved)
        on_event(
            self,
            "Rejected",
            f"stepforge-{settings.name}-rejected",
            changed,
            rejected,
            detail={"ModelApprovalStatus": ["Rejected"]},
        )
        events.Rule(
            self,
            "Sweep",
            rule_name=f"stepforge-{settings.name}-sweep",
            schedule=events.Schedule.rate(cdk.Duration.minutes(settings.sweep_minutes)),
            targets=[approved],
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
