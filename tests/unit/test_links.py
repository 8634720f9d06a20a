"""Addresses are those that the console shows itself, in each partition."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from stepforge.following import links

JOB = "sft-0123456789ab-a0"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-1", "eu-west-1.console.aws.amazon.com"),
        ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
    ],
)
def test_each_partition_has_its_own_console(region: str, host: str) -> None:
    for address in (links.training_job(region, JOB), links.log_streams(region, JOB)):
        assert address.startswith(f"https://{host}/")
        assert f"?region={region}#" in address


def test_cloudwatch_gets_names_encoded_twice_with_dollars() -> None:
    address = links.log_stream("us-east-1", f"{JOB}/algo-1-17$[x]")
    assert address == (
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#logsV2:log-groups/log-group/"
        f"$252Faws$252Fsagemaker$252FTrainingJobs/log-events/{JOB}$252Falgo-1-17$2524$255Bx$255D"
    )
    stream = address.rpartition("/log-events/")[2]
    assert unquote(unquote(stream.replace("$", "%"))) == f"{JOB}/algo-1-17$[x]"
    assert links.log_streams("us-east-1", JOB).endswith(f"TrainingJobs$3FlogStreamNameFilter$3D{JOB}$252F")


def test_an_execution_keeps_the_colons_of_its_arn() -> None:
    arn = "arn:aws:states:eu-west-1:123456789012:execution:train:train-0123456789ab-r0"
    assert links.execution("eu-west-1", arn).endswith(f"#/v2/executions/details/{arn}")


def test_studio_is_linked_where_its_domain_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAGEMAKER_STUDIO_DOMAIN", raising=False)
    metadata = tmp_path / "resource-metadata.json"
    assert links.studio_domain(metadata) == ""
    metadata.write_text(json.dumps({"DomainId": "d-abc"}))
    assert links.studio_domain(metadata) == "d-abc"
    assert (
        links.studio("us-east-1", JOB, "d-abc")
        == f"https://studio-d-abc.studio.us-east-1.sagemaker.aws/jobs/train/{JOB}"
    )
    assert links.studio("cn-north-1", JOB, "d-abc") == ""


def test_mlflow_is_linked_where_it_has_an_interface() -> None:
    found = links.mlflow("https://mlflow.example/", "a" * 64)
    assert found.startswith("https://mlflow.example/#/experiments?searchFilter=")
    assert unquote(found).endswith(f"tags.`stepforge.spec_sha256` = '{'a' * 64}'")
    assert links.mlflow("sqlite:///mlflow.db", "a" * 64) == ""


def test_a_local_job_has_no_console_and_a_cloud_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.setenv("SAGEMAKER_STUDIO_DOMAIN", "d-abc")
    cloud: Any = SimpleNamespace(endpoint_url=None, region="eu-west-1")
    local: Any = SimpleNamespace(endpoint_url="http://127.0.0.1:1", region="us-east-1")
    assert list(links.job_links(cloud, JOB, spec_sha256="a" * 64)) == ["sagemaker", "cloudwatch", "studio", "mlflow"]
    assert list(links.job_links(local, JOB, spec_sha256="a" * 64)) == ["mlflow"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert list(links.job_links(cloud, JOB, spec_sha256="a" * 64)) == ["mlflow"], "as `stepforge local run` has it"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://vpce-0.sagemaker.eu-west-1.vpce.amazonaws.com")
    assert all(re.match(r"https://\S+$", address) for address in links.job_links(cloud, JOB).values())
