"""One page of an environment: do runs end well, do handlers fail, do endpoints answer, is anything lost."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from cdk.policies import arns
from cdk.settings import Settings
from stepforge.contracts.names import MACHINES, endpoint_name, package_group
from stepforge.contracts.serving import ServeMode, dimensions


class Dashboard(Construct):
    """Everything is named and nothing referred to: a page must not keep a machine from being replaced."""

    def __init__(self, scope: Construct, settings: Settings, *, alarms: Sequence[str], handlers: Sequence[str]) -> None:
        super().__init__(scope, "Dashboard")
        stem = f"stepforge-{settings.name}"

        def machines(metric: str) -> list[cloudwatch.Metric]:
            found = arns(self, "states", *(f"stateMachine:{stem}-{name}" for name in MACHINES))
            return [
                _metric("AWS/States", metric, "StateMachineArn", value, name)
                for name, value in zip(MACHINES, found, strict=True)
            ]

        def functions(metric: str, statistic: str = "Sum") -> list[cloudwatch.Metric]:
            names = {name: f"{stem}-{name.replace('_', '-')}" for name in handlers}
            return [
                _metric("AWS/Lambda", metric, "FunctionName", value, name, statistic) for name, value in names.items()
            ]

        page = cloudwatch.Dashboard(self, "Page", dashboard_name=stem)
        found = [
            cloudwatch.Alarm.from_alarm_arn(self, name, *arns(self, "cloudwatch", f"alarm:{name}"))
            for name in sorted(alarms)
        ]
        page.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=found, width=24, height=4))
        page.add_widgets(
            _graph("Executions that ended well", machines("ExecutionsSucceeded")),
            _graph("Executions that failed", machines("ExecutionsFailed")),
            _graph("Executions cut off", machines("ExecutionsTimedOut")),
        )
        page.add_widgets(
            _graph("Errors of handlers", functions("Errors")),
            _graph("Throttled handlers", functions("Throttles")),
            _graph("Longest handler, ms", functions("Duration", "Maximum")),
        )
        endpoints = [endpoint_name(package_group(domain, settings.name)) for domain in settings.domains]

        def answered(metric: str, statistic: str = "Sum") -> list[cloudwatch.Metric]:
            return [_endpoint(name, settings.serve_mode, metric, statistic) for name in endpoints]

        page.add_widgets(
            _graph("Answers of endpoints", answered("Invocations")),
            _graph("Errors of endpoints", answered("Invocation5XXErrors")),
            _graph("Latency of models, us", answered("ModelLatency", "p99")),
        )


def _metric(
    namespace: str, metric: str, dimension: str, value: str, label: str, statistic: str = "Sum"
) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=namespace, metric_name=metric, dimensions_map={dimension: value}, statistic=statistic, label=label
    )


def _graph(title: str, metrics: Sequence[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(metrics), width=8, height=6)


def _endpoint(name: str, mode: ServeMode, metric: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/SageMaker",
        metric_name=metric,
        dimensions_map=dimensions(name, mode),
        statistic=statistic,
        label=name,
    )
