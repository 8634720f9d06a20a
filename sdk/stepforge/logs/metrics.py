"""Metrics for Prometheus and CloudWatch, under the names of `contracts.metrics` in both.

Pure text: nothing listens and nothing is sent. `reward` is `stepforge_reward` in Prometheus, and `reward` in the
namespace `stepforge` in CloudWatch.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stepforge.contracts.metrics import PHASES, Metric
from stepforge.errors import InvalidInput

NAMESPACE = "stepforge"
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST_METRICS = 100
_MOST_DIMENSIONS = 30
_SECONDS = frozenset({Metric.SECONDS, *PHASES})
_COUNTS = frozenset({Metric.COMPLETION_TOKENS, Metric.PAIRS, Metric.BATCH_GROUPS, Metric.SAMPLING_ROUNDS})


class Sample(NamedTuple):
    """A metric's value now, and what it is of: `Sample(Metric.REWARD, .5, {"job": "srl-0-a0"})`."""

    metric: Metric
    value: float
    labels: Mapping[str, str] = {}


def latest(path: Path) -> tuple[int, dict[Metric, float]]:
    """The last value of each metric in a job's metrics.jsonl, and the step of its last line; 0 where it has none.

    Not every line has every metric: some are measured at checkpoints alone. A last line that is being written is left
    aside. Raises InvalidInput for any other line that is malformed.
    """
    found: dict[Metric, float] = {}
    step = 0
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            values = json.loads(line)
            step = int(values["step"])
            known = {name: values[name] for name in values.keys() & set(Metric)}
            found |= {Metric(name): float(value) for name, value in known.items() if value is not None}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{path}, line {number}, is no line of metrics with a step: {error!r}") from error
    return step, found


def prometheus_text(samples: Iterable[Sample]) -> str:
    """Gauges in the text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/

    Raises InvalidInput for a label that Prometheus does not take, and for two samples of the same labels.
    """
    groups: dict[Metric, dict[str, float]] = {}
    for sample in samples:
        labels = _labels(sample.labels)
        group = groups.setdefault(Metric(sample.metric), {})
        if labels in group:
            raise InvalidInput(f"two samples of {sample.metric.value}{labels}: give each labels of its own")
        group[labels] = float(sample.value)
    lines = []
    for metric, group in groups.items():
        name = f"{NAMESPACE}_{metric.value}"
        lines += [f"# HELP {name} {metric.value} of a stepforge job.", f"# TYPE {name} gauge"]
        lines += [f"{name}{labels} {_number(value)}" for labels, value in group.items()]
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


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def emf_lines(
    values: Mapping[Metric, float],
    *,
    dimensions: Mapping[str, str],
    at: float | None = None,
    namespace: str = NAMESPACE,
    **properties: Any,
) -> list[str]:
    """Lines in CloudWatch's embedded metric format, for a log that CloudWatch keeps; 100 metrics a line at most.

    `at` is in seconds of the epoch, now by default; `properties` can be searched for and are no metrics. CloudWatch
    takes finite numbers alone: others are named in the property `not_finite`. Raises InvalidInput where CloudWatch
    would leave a line aside without a word.
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    names = [metric.value for metric in values]
    _check(dimensions, properties, names, namespace)
    finite = {Metric(metric): float(value) for metric, value in values.items() if math.isfinite(value)}
    if others := [metric.value for metric, value in values.items() if not math.isfinite(value)]:
        properties = {**properties, "not_finite": others}
    milliseconds = int((time.time() if at is None else at) * 1000)
    metrics = list(finite)
    lines = []
    for start in range(0, len(metrics), _MOST_METRICS):
        some = metrics[start : start + _MOST_METRICS]
        directive = {
            "Namespace": namespace,
            "Dimensions": [list(dimensions)],
            "Metrics": [{"Name": metric.value, "Unit": unit(metric)} for metric in some],
        }
        line = {
            "_aws": {"Timestamp": milliseconds, "CloudWatchMetrics": [directive]},
            **dimensions,
            **properties,
            **{metric.value: finite[metric] for metric in some},
        }
        lines.append(json.dumps(line, separators=(",", ":"), default=str))
    return lines


def unit(metric: Metric) -> str:
    """CloudWatch's unit of a metric: most are ratios, nats or rewards, which have none."""
    return "Seconds" if metric in _SECONDS else "Count" if metric in _COUNTS else "None"


def _check(dimensions: Mapping[str, str], properties: Mapping[str, Any], names: list[str], namespace: str) -> None:
    if len(dimensions) > _MOST_DIMENSIONS:
        raise InvalidInput(f"{len(dimensions)} dimensions: CloudWatch takes {_MOST_DIMENSIONS} at most")
    for name, value in dimensions.items():
        if not 1 <= len(name) <= 250 or name.startswith(":") or not 1 <= len(str(value)) <= 1024 or not value.strip():
            raise InvalidInput(f"dimension {name!r} = {value!r}: 1 to 250 and 1 to 1024 characters, not blank, no ':'")
    if not 1 <= len(namespace) <= 256 or namespace.startswith("AWS/"):
        raise InvalidInput(f"namespace {namespace!r}: 1 to 256 characters, and AWS/ is Amazon's own")
    taken = [*dimensions, *properties, *names, "_aws"]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise InvalidInput(f"{twice} given twice: a dimension, a property and a metric need different names")
