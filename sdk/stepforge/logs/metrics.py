"""What is counted of jobs and endpoints, for CloudWatch and for Prometheus, under the same names.

Pure: nothing listens and nothing is sent. Each end of a job that is booked is a log line that CloudWatch reads as
metrics (`emf`, in economics/ledger.py); an endpoint answers GET /metrics (`prometheus_text`). The metrics of training
are elsewhere: a job writes them to metrics.jsonl, to its log and to MLflow.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stepforge.contracts.metrics import Count
from stepforge.errors import InvalidInput

NAMESPACE = "stepforge"
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST_DIMENSIONS = 30
_UNITS = {Count.BILLABLE_SECONDS: "Seconds", Count.REQUEST_SECONDS: "Seconds", Count.COST_USD: "None"}


def emf(values: Mapping[Count, float], *, dimensions: Mapping[str, str], at: float | None = None) -> dict[str, Any]:
    """The `extra` of a log line that makes it a line of CloudWatch's embedded metric format, on Lambda say.

    `at` is in seconds of the epoch, now by default. Raises InvalidInput where CloudWatch would leave the line aside
    without a word.
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

    >>> line = emf({Count.JOBS_ENDED: 1}, dimensions={"Type": "sft"}, at=1.5)
    >>> line["_aws"]["Timestamp"], line["Type"], line["jobs_ended"]
    (1500, 'sft', 1)
    """
    _check(values, dimensions)
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": count.value, "Unit": _UNITS.get(count, "Count")} for count in values],
    }
    milliseconds = int((time.time() if at is None else at) * 1000)
    return {
        "_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [directive]},
        **dimensions,
        **{count.value: value for count, value in values.items()},
    }


def _check(values: Mapping[Count, float], dimensions: Mapping[str, str]) -> None:
    if len(dimensions) > _MOST_DIMENSIONS:
        raise InvalidInput(f"{len(dimensions)} dimensions: CloudWatch takes {_MOST_DIMENSIONS} at most")
    for name, value in dimensions.items():
        if not 1 <= len(name) <= 250 or name.startswith(":") or not 1 <= len(str(value)) <= 1024 or not value.strip():
            raise InvalidInput(f"dimension {name!r} = {value!r}: 1 to 250 and 1 to 1024 characters, not blank, no ':'")
    if twice := sorted(dimensions.keys() & {count.value for count in values}):
        raise InvalidInput(f"{twice} given twice: a dimension and a metric need different names")
    if wrong := sorted(count.value for count, value in values.items() if not math.isfinite(value)):
        raise InvalidInput(f"{wrong}: CloudWatch takes finite numbers alone; leave out what is not known")


class Sample(NamedTuple):
    """What was counted since the process began: `Sample(Count.REQUESTS, 3, {"status": "200"})`."""

    what: Count
    value: float
    labels: Mapping[str, str] = {}


def prometheus_text(samples: Iterable[Sample]) -> str:
    """Counters in the text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/

    Raises InvalidInput for a label that Prometheus does not take, and for two samples of the same labels.

    >>> print(prometheus_text([Sample(Count.REQUESTS, 3.0, {"status": "200"})]), end="")
    # TYPE stepforge_requests_total counter
    stepforge_requests_total{status="200"} 3.0
    """
    groups: dict[Count, dict[str, float]] = {}
    for sample in samples:
        labels = _labels(sample.labels)
        group = groups.setdefault(sample.what, {})
        if labels in group:
            raise InvalidInput(f"two samples of {sample.what.value}{labels}: give each labels of its own")
        group[labels] = float(sample.value)
    lines = []
    for count, group in groups.items():
        name = f"{NAMESPACE}_{count.value}_total"
        lines += [f"# TYPE {name} counter", *(f"{name}{labels} {value!r}" for labels, value in group.items())]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    for name in labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise InvalidInput(f"label {name!r}: letters, digits and underscores, not a digit or '__' first")
    escaped = {
        name: str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        for name, value in labels.items()
    }
    inside = ",".join(f'{name}="{escaped[name]}"' for name in sorted(escaped))
    return f"{{{inside}}}" if inside else ""
