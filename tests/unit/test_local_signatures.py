"""Signatures are checked against those that botocore makes."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from stepforge.local.signatures import Refused, Request, Scope, verify
from stepforge.local.state import AccessKey

KEY = AccessKey("AKIATEST", "a secret")
CREDENTIALS = Credentials(KEY.id, KEY.secret)


def signed(signer: type, service: str, method: str, url: str, body: bytes = b"", **options: object) -> Request:
    call = AWSRequest(method, url, data=body, headers={"Host": urlsplit(url).netloc})
    signer(CREDENTIALS, service, "us-east-1", **options).add_auth(call)
    split = urlsplit(call.url)
    headers = {name.lower(): value for name, value in call.headers.items()}
    return Request(method, split.path, split.query, headers, body)


@given(
    path=st.text(alphabet="ab/%20+~._-:", max_size=12),
    query=st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "1", "%20x", "a%2Fb"])),
)
def test_what_botocore_signs_is_let_in(path: str, query: dict[str, str]) -> None:
    for signer, service in ((SigV4Auth, "lambda"), (S3SigV4Auth, "s3")):
        if service == "lambda" and ("//" in path or "%" in path):
            continue
        url = f"http://localhost:1/{path.replace('%', '%25')}?" + "&".join(f"{k}={v}" for k, v in query.items())
        assert verify(signed(signer, service, "PUT", url, b"body"), KEY) == Scope("us-east-1", service)


@pytest.fixture
def request_() -> Request:
    return signed(S3SigV4Auth, "s3", "PUT", "http://localhost:1/bucket/key?a=1", b"body")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"method": "GET"}, "SignatureDoesNotMatch"),
        ({"raw_path": "/bucket/other"}, "SignatureDoesNotMatch"),
        ({"query": "a=2"}, "SignatureDoesNotMatch"),
        ({"body": b"other"}, "XAmzContentSHA256Mismatch"),
        ({"headers": {}}, "MissingAuthenticationToken"),
        ({"query": "AWSAccessKeyId=a&Signature=b&Expires=1"}, "InvalidRequest"),
    ],
    ids=["method", "path", "query", "body", "unsigned", "version 2"],
)
def test_a_request_that_differs_from_what_was_signed_is_refused(request_: Request, change: dict, code: str) -> None:
    with pytest.raises(Refused) as caught:
        verify(replace(request_, **change), KEY)
    assert caught.value.code == code


def test_a_signature_has_its_time(request_: Request) -> None:
    now = datetime.now(UTC)
    for shift in (-20, 20):
        with pytest.raises(Refused) as caught:
            verify(request_, KEY, now=now + timedelta(minutes=shift))
        assert caught.value.code == "RequestTimeTooSkewed"
    presigned = signed(S3SigV4QueryAuth, "s3", "GET", "http://localhost:1/bucket/key", expires=60)
    assert verify(presigned, KEY).service == "s3"
    with pytest.raises(Refused, match="expired"):
        verify(presigned, KEY, now=now + timedelta(seconds=70))


def test_another_secret_is_refused(request_: Request) -> None:
    with pytest.raises(Refused) as caught:
        verify(request_, AccessKey(KEY.id, "another"))
    assert caught.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("name", "value"), [("X-Amz-Expires", "%C2%B2"), ("X-Amz-Signature", "%C3%A9")])
def test_a_presigned_address_with_strange_digits_is_refused_not_an_error(name: str, value: str) -> None:
    request = signed(S3SigV4QueryAuth, "s3", "GET", "http://localhost:1/bucket/key")
    query = re.sub(f"{name}=[^&]*", f"{name}={value}", request.query)
    with pytest.raises(Refused):
        verify(replace(request, query=query), KEY)


class SignsNoHost(SigV4Auth):
    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        headers = super().headers_to_sign(request)
        del headers["host"]
        return headers


def test_a_signature_that_holds_for_any_host_is_refused() -> None:
    with pytest.raises(Refused, match="host must be signed"):
        verify(signed(SignsNoHost, "lambda", "GET", "http://localhost:1/"), KEY)


def test_a_presigned_address_lives_for_7_days_at_most() -> None:
    week = 7 * 86_400
    longest, longer = (
        signed(S3SigV4QueryAuth, "s3", "GET", "http://localhost:1/bucket/key", expires=seconds)
        for seconds in (week, week + 1)
    )
    assert verify(longest, KEY).service == "s3"
    with pytest.raises(Refused) as caught:
        verify(longer, KEY)
    assert caught.value.code == "AccessDenied"
