"""The secrets client against the local Secrets Manager, with delays and cuts between, and nothing of it in a log."""

from __future__ import annotations

import logging
import time
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from stepforge.errors import InvalidInput, SecretUnavailable
from stepforge.local import LocalAws
from stepforge.secrets import Secrets
from stepforge.testing import FakeClock
from tests.functional.local_aws.helpers import bucket, ended, job_request, register, wait

PATIENT = 30.0
"""Seconds: what is asked here is what comes, not how soon."""
PLANTED = "planted-value-7f3a"


class Way:
    """Between the client and the server: every request passes here, and may take its time or be cut."""

    def __init__(self) -> None:
        self.requests, self.delay_seconds, self.cut = 0, 0.0, False

    def __call__(self, request: Any, **_: Any) -> None:
        self.requests += 1
        time.sleep(self.delay_seconds)
        if self.cut:
            raise ConnectionClosedError(endpoint_url=request.url)


@pytest.fixture
def way(local_aws: LocalAws) -> tuple[Any, Way]:
    way = Way()
    once = Config(retries={"mode": "standard", "max_attempts": 1})
    client = local_aws.client("secretsmanager", config=once)
    client.meta.events.register("before-send.secretsmanager.GetSecretValue", way)
    return client, way


def secret(aws: LocalAws, name: str, value: str = PLANTED) -> str:
    arn: str = aws.client("secretsmanager").create_secret(Name=name, SecretString=value)["ARN"]
    return arn


def test_a_secret_is_fetched_once_by_arn_and_by_name(local_aws: LocalAws, way: tuple[Any, Way]) -> None:
    client, between = way
    arn = secret(local_aws, "by-arn")
    secrets = Secrets(client, budget_seconds=PATIENT)
    found = secrets.get(arn)
    assert (found.reveal(), found.stages, found.stale) == (PLANTED, ("AWSCURRENT",), False)
    assert [secrets.get(arn).version for _ in range(50)] == [found.version] * 50
    assert between.requests == 1
    assert secrets.get("by-arn").reveal() == PLANTED


def test_while_answers_are_slow_or_cut_a_stale_value_is_served_and_then_a_fresh_one(
    local_aws: LocalAws, way: tuple[Any, Way]
) -> None:
    client, between = way
    arn, clock = secret(local_aws, "slow"), FakeClock()
    secrets = Secrets(client, fresh_seconds=60, clock=clock, budget_seconds=1)
    assert not secrets.get(arn).stale
    clock.advance(60)
    between.delay_seconds = 2.5
    started = time.perf_counter()
    assert secrets.get(arn).stale
    assert time.perf_counter() - started >= 1
    # What comes late is cached.
    wait(lambda: secrets.get(arn).stale, lambda stale: not stale)
    clock.advance(60)
    between.delay_seconds, between.cut = 0.0, True
    assert secrets.get(arn).stale
    assert secrets.get(arn).reveal() == PLANTED
    clock.advance(10)
    between.cut = False
    assert not secrets.get(arn).stale


def test_after_a_rotation_refresh_has_the_new_value(local_aws: LocalAws, way: tuple[Any, Way]) -> None:
    arn, clock = secret(local_aws, "rotates", "old"), FakeClock()
    secrets = Secrets(way[0], clock=clock, budget_seconds=PATIENT)
    failed = secrets.get(arn)
    manager = local_aws.client("secretsmanager")
    manager.put_secret_value(SecretId=arn, SecretString="pending", VersionStages=["AWSPENDING"])
    assert secrets.refresh(failed).reveal() == "pending"
    manager.put_secret_value(SecretId=arn, SecretString="new")
    assert secrets.get(arn).reveal() == "old"
    clock.advance(5)
    found = secrets.refresh(failed)
    assert (found.reveal(), secrets.get(arn).reveal()) == ("new", "new")


def test_a_secret_that_does_not_exist_is_the_callers_mistake(way: tuple[Any, Way]) -> None:
    with pytest.raises(InvalidInput, match="'no-such-secret' has no value under AWSCURRENT"):
        Secrets(way[0], budget_seconds=PATIENT).get("no-such-secret")


def test_without_a_server_the_error_says_what_to_do() -> None:
    quick = Config(retries={"mode": "standard", "max_attempts": 1}, connect_timeout=1)
    session = boto3.Session("AKIA0", "secret", region_name="us-east-1")
    client = session.client("secretsmanager", endpoint_url="http://127.0.0.1:9", config=quick)
    with pytest.raises(SecretUnavailable, match="EndpointConnectionError"):
        Secrets(client, budget_seconds=PATIENT).get("any")


def test_with_every_logger_at_debug_no_line_has_the_secret(
    local_aws: LocalAws, way: tuple[Any, Way], caplog: pytest.LogCaptureFixture
) -> None:
    arn = secret(local_aws, "quiet")
    # Clients of paid fine-tunes keep botocore at WARNING where nobody chose a level.
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="botocore"):
        assert way[0].get_secret_value(SecretId=arn)["SecretString"] == PLANTED
        assert PLANTED in caplog.text  # what botocore does by itself
        caplog.clear()
        assert Secrets(way[0], budget_seconds=PATIENT).get(arn).reveal() == PLANTED
        assert PLANTED not in caplog.text


@pytest.mark.parametrize("where", ["Environment", "HyperParameters"])
def test_a_job_that_is_given_a_secret_is_refused_and_the_error_does_not_repeat_it(
    local_aws: LocalAws, where: str
) -> None:
    planted = "sk-ant-" + "x7Kd" * 12
    request = job_request("leaks-a1", register(), **{where: {"FINE": "1", "SETTING": planted}})
    with pytest.raises(ClientError, match=r"'SETTING' holds a secret \(api-key\).*'SETTING_ARN'") as caught:
        local_aws.client("sagemaker").create_training_job(**request)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert planted not in str(caught.value)


def test_a_job_is_given_the_arn_of_a_secret(local_aws: LocalAws) -> None:
    bucket(local_aws)
    arn = secret(local_aws, "for-a-job")
    request = job_request("told-a1", register(), Environment={"PROVIDER_SECRET_ARN": arn, "DB_PASSWORD": arn})
    local_aws.client("sagemaker").create_training_job(**request)
    assert ended(local_aws, "told-a1")["TrainingJobStatus"] == "Completed"
