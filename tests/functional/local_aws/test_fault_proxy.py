"""The proxy fails as it is told, counts what came, and changes nothing about what it lets pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from stepforge.local import LocalAws
from stepforge.testing import FaultProxy, Rule


@pytest.fixture
def proxy(local_aws: LocalAws) -> Iterator[FaultProxy]:
    with FaultProxy(local_aws.endpoint_url) as proxy:
        yield proxy


def through(proxy: FaultProxy, aws: LocalAws, service: str, **options: Any) -> Any:
    session = boto3.Session(aws.access_key_id, aws.secret_access_key, region_name=aws.region)
    once = Config(retries={"mode": "standard", "total_max_attempts": 1}, **options)
    return session.client(service, endpoint_url=proxy.endpoint_url, config=once)


def code(call: Any, **request: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as raised:
        call(**request)
    response: Any = raised.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_signed_requests_and_bodies_of_any_form_pass_unchanged(proxy: FaultProxy, local_aws: LocalAws) -> None:
    s3 = through(proxy, local_aws, "s3")
    body = bytes(range(256)) * 4000
    s3.create_bucket(Bucket="faults")
    s3.put_object(Bucket="faults", Key="a b/ü+x", Body=body)
    assert s3.get_object(Bucket="faults", Key="a b/ü+x")["Body"].read() == body
    assert s3.head_object(Bucket="faults", Key="a b/ü+x")["ContentLength"] == len(body)
    assert code(through(proxy, local_aws, "sagemaker").describe_training_job, TrainingJobName="none") == (
        "ValidationException",
        400,
    )
    assert proxy.count("s3:PUT") == 2
    assert (proxy.count("sagemaker:DescribeTrainingJob"), proxy.count(faulty=True)) == (1, 0)
    assert proxy.seen("sagemaker:*")[0].field("TrainingJobName") == "none"


@pytest.mark.parametrize(
    ("fault", "json_error", "s3_error"),
    [
        ("throttle", ("ThrottlingException", 400), ("SlowDown", 503)),
        ("too_many_requests", ("TooManyRequestsException", 429), ("SlowDown", 503)),
        ("error", ("InternalFailure", 500), ("InternalError", 500)),
        ("unavailable", ("ServiceUnavailable", 503), ("ServiceUnavailable", 503)),
        ("expired", ("ExpiredTokenException", 400), ("ExpiredToken", 400)),
    ],
)
def test_a_refusal_is_what_the_service_would_say(
    proxy: FaultProxy, local_aws: LocalAws, fault: Any, json_error: tuple[str, int], s3_error: tuple[str, int]
) -> None:
    proxy.rules = [Rule(fault)]
    assert code(through(proxy, local_aws, "sagemaker").describe_training_job, TrainingJobName="none") == json_error
    assert code(through(proxy, local_aws, "s3").get_object, Bucket="faults", Key="k") == s3_error


def test_a_lost_answer_is_to_a_call_that_was_done_and_a_cut_one_was_not(proxy: FaultProxy, local_aws: LocalAws) -> None:
    s3 = through(proxy, local_aws, "s3")
    proxy.rules = [Rule("lost", "s3:PUT", times=1), Rule("cut", "s3:PUT", skip=1, times=1)]
    for name in ("faults-lost", "faults-cut"):
        with pytest.raises(ConnectionClosedError):
            s3.create_bucket(Bucket=name)
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert "faults-lost" in names
    assert "faults-cut" not in names
    assert [call.fault for call in proxy.seen("s3:PUT")] == ["lost", "cut"]


def test_what_never_answers_ends_by_the_callers_own_timeout(proxy: FaultProxy, local_aws: LocalAws) -> None:
    proxy.rules = [Rule("hang")]
    with pytest.raises(ReadTimeoutError):
        through(proxy, local_aws, "sagemaker", read_timeout=0.2).list_training_jobs()


def test_the_seed_alone_decides_which_calls_fail(local_aws: LocalAws) -> None:
    def fates(seed: int) -> list[bool]:
        with FaultProxy(local_aws.endpoint_url, [Rule("throttle", share=0.5)], seed=seed) as proxy:
            sagemaker = through(proxy, local_aws, "sagemaker")
            for _ in range(20):
                try:
                    sagemaker.list_training_jobs()
                except ClientError:
                    continue
            return [call.fault is not None for call in proxy.calls]

    first = fates(1)
    assert fates(1) == first != fates(2)
    assert 4 < sum(first) < 16


def test_only_a_server_of_this_machine_is_failed() -> None:
    with pytest.raises(ValueError, match="local AWS only"):
        FaultProxy("https://sagemaker.us-east-1.amazonaws.com")
