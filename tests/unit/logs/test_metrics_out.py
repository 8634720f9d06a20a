"""The same names for Prometheus and for CloudWatch, in texts that both read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stepforge.contracts.metrics import Metric
from stepforge.errors import InvalidInput
from stepforge.logs.metrics import Sample, emf_lines, latest, prometheus_text

UNITS = (
    "Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits|"
    "Terabits|Percent|Count|Bytes/Second|Kilobytes/Second|Megabytes/Second|Gigabytes/Second|Terabytes/Second|"
    "Bits/Second|Kilobits/Second|Megabits/Second|Gigabits/Second|Terabits/Second|Count/Second|None"
)
# After the schema in
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
EMF: dict[str, Any] = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 10**12},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "properties": {
                            "Namespace": {"type": "string", "minLength": 1, "maxLength": 1024},
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "maxItems": 30,
                                    "items": {"type": "string", "minLength": 1, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "properties": {
                                        "Name": {"type": "string", "minLength": 1, "maxLength": 1024},
                                        "Unit": {"type": "string", "pattern": f"^({UNITS})$"},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
VALUES = st.dictionaries(st.sampled_from(Metric), st.floats(width=32), max_size=len(Metric))


@settings(max_examples=50, deadline=None)
@given(VALUES, st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.text(max_size=12)))
def test_prometheus_reads_back_what_was_written(values: dict[Metric, float], labels: dict[str, str]) -> None:
    text = prometheus_text(Sample(metric, value, labels) for metric, value in values.items())
    # Its parser splits lines at every kind of line break, which the format does not.
    if len(text.splitlines()) != text.count("\n") or "\r" in text:
        return
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == {f"stepforge_{metric.value}" for metric in values}
    for metric, value in values.items():
        family = families[f"stepforge_{metric.value}"]
        (sample,) = family.samples
        assert family.type == "gauge"
        assert sample.labels == labels
        assert sample.value == value or (math.isnan(value) and math.isnan(sample.value))


def test_samples_of_one_metric_stand_together() -> None:
    jobs = [{"job": "a"}, {"job": "b"}]
    text = prometheus_text(Sample(metric, 1, job) for job in jobs for metric in (Metric.LOSS, Metric.KL))
    assert text == (
        "# HELP stepforge_loss loss of a stepforge job.\n# TYPE stepforge_loss gauge\n"
        'stepforge_loss{job="a"} 1.0\nstepforge_loss{job="b"} 1.0\n'
        "# HELP stepforge_kl kl of a stepforge job.\n# TYPE stepforge_kl gauge\n"
        'stepforge_kl{job="a"} 1.0\nstepforge_kl{job="b"} 1.0\n'
    )


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_cloudwatch_finds_every_metric_that_it_takes(values: dict[Metric, float]) -> None:
    lines = [
        json.loads(line) for line in emf_lines(values, dimensions={"Environment": "local", "Stage": "srl"}, job="srl-0")
    ]
    found = {}
    for line in lines:
        jsonschema.validate(line, EMF)
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Dimensions"] == [["Environment", "Stage"]]
        assert (line["Environment"], line["job"]) == ("local", "srl-0")
        found |= {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]}
    assert found == {metric.value: value for metric, value in values.items() if math.isfinite(value)}


def test_every_metric_at_once_keeps_cloudwatchs_limit() -> None:
    for line in emf_lines(dict.fromkeys(Metric, 1.0), dimensions={}):
        jsonschema.validate(json.loads(line), EMF)


def test_a_number_that_is_not_finite_is_named() -> None:
    (line,) = emf_lines({Metric.LOSS: math.nan, Metric.KL: 0.1}, dimensions={})
    assert json.loads(line)["not_finite"] == ["loss"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dimensions": {"Stage": ""}}, "Stage"),
        ({"dimensions": {f"d{n}": "x" for n in range(31)}}, "31 dimensions"),
        ({"dimensions": {}, "namespace": "AWS/SageMaker"}, "AWS/"),
        ({"dimensions": {"loss": "x"}}, "loss"),
        ({"dimensions": {"a": "x"}, "a": "y"}, "twice"),
    ],
)
def test_what_cloudwatch_would_drop_in_silence_is_refused(options: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        emf_lines({Metric.LOSS: 1.0}, **options)


def test_prometheus_labels_are_checked() -> None:
    with pytest.raises(InvalidInput, match="a-b"):
        prometheus_text([Sample(Metric.LOSS, 1, {"a-b": "x"})])
    with pytest.raises(InvalidInput, match="two samples"):
        prometheus_text([Sample(Metric.LOSS, 1), Sample(Metric.LOSS, 2)])


def test_the_last_values_of_a_job_are_read_from_its_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "kl": 0.1}\n{"step": 2, "loss": 1.5, "kl": null}\n{"step": 3, "lo')
    assert latest(path) == (2, {Metric.LOSS: 1.5, Metric.KL: 0.1})
    path.write_text("no json\n")
    with pytest.raises(InvalidInput, match="line 1"):
        latest(path)
