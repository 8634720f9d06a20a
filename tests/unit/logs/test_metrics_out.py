"""The same names for Prometheus and for CloudWatch, in texts that both read."""

from __future__ import annotations

import logging
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.support.log_sinks import Memory

from stepforge import logs
from stepforge.contracts.metrics import Count
from stepforge.errors import InvalidInput
from stepforge.logs.metrics import Sample, emf, prometheus_text

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
COUNTS = st.floats(min_value=0, allow_infinity=False)
VALUES = st.dictionaries(st.sampled_from(Count), COUNTS, min_size=1, max_size=len(Count))


@settings(max_examples=50, deadline=None)
@given(VALUES, st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.text(max_size=12)))
def test_prometheus_reads_back_what_was_written(values: dict[Count, float], labels: dict[str, str]) -> None:
    text = prometheus_text(Sample(count, value, labels) for count, value in values.items())
    # Its parser splits lines at every kind of line break, which the format does not.
    if len(text.splitlines()) != text.count("\n") or "\r" in text:
        return
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == {f"stepforge_{count.value}" for count in values}
    for count, value in values.items():
        family = families[f"stepforge_{count.value}"]
        (sample,) = family.samples
        assert (family.type, sample.labels, sample.value) == ("counter", labels, value)


def test_samples_of_one_count_stand_together() -> None:
    paths = [{"path": "a"}, {"path": "b"}]
    text = prometheus_text(Sample(count, 1, path) for path in paths for count in (Count.REQUESTS, Count.RECORDS))
    assert text == (
        "# TYPE stepforge_requests_total counter\n"
        'stepforge_requests_total{path="a"} 1.0\nstepforge_requests_total{path="b"} 1.0\n'
        "# TYPE stepforge_records_total counter\n"
        'stepforge_records_total{path="a"} 1.0\nstepforge_records_total{path="b"} 1.0\n'
    )


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_a_line_of_the_log_is_one_that_cloudwatch_takes(values: dict[Count, float]) -> None:
    sink = Memory()
    with logs.configure("stepforge.classify_job", sink=sink, queued=False):
        extra = {**emf(values, dimensions={"Environment": "local", "Type": "srl"}), "job": "srl-0"}
        logging.getLogger("stepforge").info("ended", extra=extra)
    line = sink.last()
    jsonschema.validate(line, EMF)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Environment", "Type"]]
    assert (line["Environment"], line["Type"], line["job"]) == ("local", "srl", "srl-0")
    assert {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]} == values


@pytest.mark.parametrize(
    ("value", "dimensions", "said"),
    [
        (1, {"Stage": ""}, "Stage"),
        (1, {f"d{n}": "x" for n in range(31)}, "31 dimensions"),
        (1, {"requests": "x"}, "requests"),
        (math.nan, {}, "finite"),
    ],
    ids=["blank", "too many", "twice", "nan"],
)
def test_what_cloudwatch_would_drop_in_silence_is_refused(value: float, dimensions: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        emf({Count.REQUESTS: value}, dimensions=dimensions)


def test_prometheus_labels_are_checked() -> None:
    with pytest.raises(InvalidInput, match="a-b"):
        prometheus_text([Sample(Count.REQUESTS, 1, {"a-b": "x"})])
    with pytest.raises(InvalidInput, match="two samples"):
        prometheus_text([Sample(Count.REQUESTS, 1), Sample(Count.REQUESTS, 2)])
