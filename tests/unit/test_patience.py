"""What is tried again, for how long, and with whose credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    UnauthorizedSSOTokenError,
)
from botocore.loaders import create_loader

from stepforge.connection import Connection
from stepforge.patience import Bounded, Patience, SlowAnswer, bounded, hint, renew_credentials, trouble


def refused(code: str, status: int = 400, message: str = "") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "DescribeTrainingJob")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refused("ThrottlingException"), "throttled"),
        (refused("Whatever", 429), "throttled"),
        (refused("SlowDown", 503), "throttled"),
        (refused("InternalFailure", 500), "unavailable"),
        (refused("Whatever", 502), "unavailable"),
        (refused("ExpiredTokenException"), "credentials"),
        (UnauthorizedSSOTokenError(), "credentials"),
        (ConnectionClosedError(endpoint_url="u"), "unavailable"),
        (EndpointConnectionError(endpoint_url="u", error="e"), "unavailable"),
        (ReadTimeoutError(endpoint_url="u"), "unavailable"),
        (SlowAnswer("x"), "unavailable"),
        (refused("ValidationException"), None),
        (refused("AccessDeniedException"), None),
        (refused("ResourceLimitExceeded"), None),
        (refused("UnrecognizedClientException"), None),
        (NoCredentialsError(), None),
        (ValueError("x"), None),
    ],
    ids=lambda value: value.response["Error"]["Code"] if isinstance(value, ClientError) else type(value).__name__,
)
def test_only_what_passes_by_itself_is_waited_for(error: Exception, kind: str | None) -> None:
    assert trouble(error) == kind


LOADER = create_loader()
"""Shared: SageMaker's model takes most of a second to read."""


def session_of(core: botocore.session.Session | None = None, **options: Any) -> boto3.Session:
    core = core or botocore.session.Session(profile=options.pop("profile", None))
    core.register_component("data_loader", LOADER)
    return boto3.Session(botocore_session=core, region_name="eu-west-1", **options)


class Network:
    """Answers of SageMaker, one a call, without a network; and a clock that sleeping moves."""

    def __init__(self, answer: Callable[[int], tuple[int, str]]) -> None:
        self.answer, self.calls, self.now, self.keys = answer, 0, 0.0, [""]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def send(self, request: Any, **_: Any) -> AWSResponse:
        status, body = self.answer(self.calls)
        self.calls += 1
        self.keys.append(request.headers["Authorization"].decode().partition("Credential=")[2].partition("/")[0])
        headers = {"content-type": "application/x-amz-json-1.1"}
        response = AWSResponse(request.url, status, headers, None)
        response._content = body.encode()
        return response

    def connection(self, session: boto3.Session | None = None, **patience: Any) -> Connection:
        connection = Connection(
            "dev",
            session or session_of(aws_access_key_id="key", aws_secret_access_key="secret"),
            patience=Patience(clock=lambda: self.now, sleep=self.sleep, random=lambda: 1.0, **patience),
        )
        connection.client("sagemaker").meta.events.register("before-send.sagemaker", self.send)
        return connection


THROTTLED = 400, '{"__type": "ThrottlingException", "message": "Rate exceeded"}'
EXPIRED = 400, '{"__type": "ExpiredTokenException", "message": "expired"}'
DONE = 200, "{}"


def test_a_call_is_tried_for_as_long_as_its_budget_and_no_longer() -> None:
    network = Network(lambda _: THROTTLED)
    with pytest.raises(ClientError, match="ThrottlingException"):
        network.connection(budget_seconds=300).client("sagemaker").list_training_jobs()
    assert 250 < network.now <= 300
    assert 15 < network.calls < 30


def test_more_refusals_than_botocore_would_take_are_survived() -> None:
    network = Network(lambda number: DONE if number % 10 == 9 else THROTTLED)
    sagemaker = network.connection().client("sagemaker")
    for _ in range(50):
        sagemaker.list_training_jobs()
    assert network.calls == 500


def test_what_does_not_pass_is_raised_at_once() -> None:
    network = Network(lambda _: (400, '{"__type": "ValidationException", "message": "no"}'))
    with pytest.raises(ClientError, match="ValidationException"):
        network.connection().client("sagemaker").list_training_jobs()
    assert (network.calls, network.now) == (1, 0.0)


def test_a_pause_has_full_jitter_below_its_cap() -> None:
    patience = Patience(random=lambda: 0.5, base_seconds=1, most_seconds=20)
    assert [patience.delay(attempt) for attempt in (1, 2, 3, 10, 500)] == [1, 2, 4, 10, 10]


def role_session(refresh: Callable[[], dict[str, str]]) -> boto3.Session:
    """A session with a role's credentials, good for another hour by this machine's clock."""
    core = botocore.session.Session()
    core._credentials = RefreshableCredentials(
        "old", "secret", "token", datetime.now(UTC) + timedelta(hours=1), refresh, "assume-role"
    )
    return session_of(core)


def new_role() -> dict[str, str]:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return {"access_key": "new", "secret_key": "secret", "token": "t2", "expiry_time": until}


def test_a_role_that_aws_calls_expired_is_renewed_within_the_call() -> None:
    network = Network(lambda number: DONE if number else EXPIRED)
    network.connection(role_session(new_role)).client("sagemaker").list_training_jobs()
    assert network.keys == ["", "old", "new"]


def test_a_profile_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def login(key: str) -> None:
        file.write_text(f"[p]\naws_access_key_id={key}\naws_secret_access_key=s\naws_session_token=t\n")

    login("first")
    session = session_of(profile="p")
    assert session.get_credentials().access_key == "first"
    assert not renew_credentials(session)
    login("second")
    network = Network(lambda number: DONE if number else EXPIRED)
    network.connection(session).client("sagemaker").list_training_jobs()
    assert network.keys == ["", "first", "second"]


def test_credentials_that_the_caller_gave_are_never_replaced_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    network = Network(lambda _: EXPIRED)
    with pytest.raises(ClientError) as raised:
        network.connection().client("sagemaker").list_training_jobs()
    assert network.keys == ["", "key"]
    assert "renew them" in hint(raised.value)


def test_a_call_whose_answer_trickles_ends_all_the_same() -> None:
    class Slow:
        def describe(self, *, seconds: float) -> str:
            time.sleep(seconds)
            return "done"

    client = Bounded(Slow(), 0.5)
    assert client.describe(seconds=0) == "done"
    with pytest.raises(SlowAnswer, match=r"describe: no whole answer in 0\.5 s"):
        client.describe(seconds=3)
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 1)


@pytest.mark.parametrize(
    "error",
    [
        refused("RequestTimeTooSkewed"),
        refused("InvalidSignatureException", message="Signature expired: 20260101T000000Z is now earlier than ..."),
        refused("InvalidSignatureException", message="Signature not yet current: ..."),
    ],
)
def test_a_clock_that_is_off_is_called_that(error: ClientError) -> None:
    assert "clock is off" in hint(error)
    assert hint(refused("AccessDenied")) == ""
