"""An approval starts `promote`; a sweep heals lost events; what is lost for good lies in the dead-letter queue."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from constructs import Construct

from cdk.alerts import alarm
from cdk.functions import Functions
from cdk.machines import ALARMED, Machines
from cdk.occasions import dead_letters, handler, on_event, queues
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, endpoint_name, package_group
from stepforge.contracts.serving import ALARM_SECONDS, dimensions


class Promotion(Construct):
    def __init__(self, scope: Construct, settings: Settings, *, functions: Functions, machines: Machines) -> None:
        super().__init__(scope, "Promotion")
        self.dead_letters = dead_letters(self, queues(settings.name)[0])
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
            for ending, metric in ALARMED.items():
                alarm(
                    self,
                    "".join(part.title() for part in f"{name}-{ending}".split("-")),
                    name=f"{stem}-{name}-{ending}",
                    says=f"an execution of {name} {ending.replace('-', ' ')}",
                    runbook="A promotion failed" if name == "promote" else "An execution failed",
                    metric=machines[name].metric(metric, statistic="Sum"),
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
                    dimensions_map=dimensions(endpoint, settings.serve_mode),
                    statistic="Sum",
                    period=cdk.Duration.seconds(ALARM_SECONDS),
                ),
            )
