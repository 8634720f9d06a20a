"""An environment is found through SSM; what is missing is named, with what to do about it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from stepforge.connection import Connection, command, connect, parse_environment
from stepforge.contracts.work import WORK_TYPES
from stepforge.errors import EnvironmentUnavailable, InvalidInput

VALUES = {
    "bucket": "bucket",
    "key-arn": "key",
    "training-role-arn": "role",
    "serving-role-arn": "role",
    "machines/train": "arn:train",
    "images/train": "image",
    **{f"code/{work}": "0" * 64 for work in WORK_TYPES},
}


@pytest.fixture
def session() -> Iterator[boto3.Session]:
    with mock_aws():
        yield boto3.Session("key", "secret", region_name="eu-west-1")


def test_parameters_become_the_environment() -> None:
    found = parse_environment("dev", VALUES | {"something-newer": "x"})
    assert (found.key_arn, found.machines["train"], found.code["srl"]) == ("key", "arn:train", "0" * 64)


def test_what_is_missing_is_named() -> None:
    values = {key: value for key, value in VALUES.items() if key != "key-arn"}
    with pytest.raises(EnvironmentUnavailable, match="key-arn"):
        parse_environment("dev", values)


def test_an_environment_is_read_in_the_callers_own_region(session: boto3.Session) -> None:
    ssm = session.client("ssm")
    for key, value in VALUES.items():
        ssm.put_parameter(Name=f"/stepforge/dev/{key}", Value=value, Type="String")
    assert connect("dev", session=session).environment.bucket == "bucket"
    elsewhere = boto3.Session("key", "secret", region_name="us-east-1")
    with pytest.raises(InvalidInput, match="unknown environment 'dev': There are: local in this account and region"):
        _ = connect("dev", session=elsewhere).environment


def test_a_mistyped_environment_is_told_beside_those_that_there_are(session: boto3.Session) -> None:
    for name in ("dev", "prod"):
        session.client("ssm").put_parameter(Name=f"/stepforge/{name}/bucket", Value="b", Type="String")
    with pytest.raises(InvalidInput, match=r"did you mean 'prod'\? There are: dev, local, prod .*\(eu-west-1\)"):
        connect("pord", session=session)


@pytest.mark.parametrize("name", ["Local", "de v", "", "-dev"])
def test_what_cannot_be_the_name_of_an_environment_is_refused_before_anybody_is_asked(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"environment {name!r} cannot be one"):
        connect(name)


def test_an_environment_that_does_not_answer_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", endpoint)
    began = time.monotonic()
    with pytest.raises(EnvironmentUnavailable, match=f"in region eu-west-1: .*{endpoint}.*Check the network"):
        connect("dev", session=boto3.Session("key", "secret", region_name="eu-west-1"))
    assert time.monotonic() - began < 10


def test_the_region_is_read_from_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    with mock_aws(), pytest.raises(InvalidInput, match="eu-north-1"):
        connect("dev")


def test_every_client_uses_the_callers_session(session: boto3.Session) -> None:
    connection = Connection("dev", session)
    for service in ("s3", "sagemaker", "stepfunctions", "logs", "sagemaker-runtime"):
        assert connection.client(service).meta.region_name == "eu-west-1"


def test_the_local_environment_takes_no_session(session: boto3.Session) -> None:
    with pytest.raises(InvalidInput, match="its own credentials"):
        connect("local", session=session)


def test_a_command_to_be_copied_reaches_what_the_one_before_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert command("watch latest", "dev") == "stepforge local run -- stepforge watch latest --env dev"
    assert command("watch latest", "local") == "stepforge watch latest"
