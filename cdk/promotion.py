"""An approval starts `promote`; a sweep heals lost events; what is lost for good lies in the dead-letter queue."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.alerts import alarm
from cdk.functions import Functions
from cdk.machines import Machines
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, endpoint_name, package_group


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
        stem = f"stepforge-{settings.name}"
        alarm(
            self,
            "LostApprovals",
            name=f"{stem}-lost-approvals",
            says="events of approvals that the handler could not take",
            runbook="A promotion failed",
            metric=self.dead_letters.metric_approximate_number_of_messages_visible(statistic="Maximum"),
        )
        for name in MACHINES:
            alarm(
                self,
                "".join(part.title() for part in name.split("-")) + "Failed",
                name=f"{stem}-{name}-failed",
                says=f"an execution of {name} failed",
                runbook="A promotion failed" if name == "promote" else "An execution failed",
                metric=machines[name].metric_failed(),
            )
        for domain in settings.domains:
            endpoint = endpoint_name(package_group(domain, settings.name))
            # Named by the endpoint: a deployment that finds the alarm rolls back when it fires.
            alarm(
                self,
                f"{domain.title()}Errors",
                name=f"{endpoint}-5xx",
                says=f"the endpoint of {domain} answers with errors",
                runbook="An endpoint answers with errors",
                metric=cloudwatch.Metric(
                    namespace="AWS/SageMaker",
                    metric_name="Invocation5XXErrors",
                    dimensions_map={"EndpointName": endpoint, "VariantName": "main"},
                    statistic="Sum",
                    period=cdk.Duration.minutes(1),
                ),
            )
