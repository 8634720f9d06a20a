"""Who comes in: only this machine, no web page, and only with the key that lies in the user's own folder."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess
import sys
import urllib.request
from dataclasses import replace
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from stepforge.local import Image, LocalAws, ensure_up, register_images, status
from tests.functional.local_aws.helpers import bucket


def raw(aws: LocalAws, method: str = "GET", path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(aws.endpoint_url).port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture(scope="module")
def address(local_aws: LocalAws) -> str:
    """A presigned address: all that a request needs is in it."""
    s3 = local_aws.client("s3", config=Config(signature_version="s3v4"))
    bucket(local_aws, "front")
    s3.put_object(Bucket="front", Key="a b/ü+x", Body=b"content")
    return s3.generate_presigned_url("get_object", Params={"Bucket": "front", "Key": "a b/ü+x"}, ExpiresIn=60)


def test_a_presigned_address_opens_its_object_alone(local_aws: LocalAws, address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(address).read() == b"content"
    split = urlsplit(address)
    assert raw(local_aws, path=f"{split.path}.other?{split.query}")[0] == 403
    assert raw(local_aws, method="DELETE", path=f"{split.path}?{split.query}")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Origin": "http://localhost"},
        {"Origin": "null"},
        {"Sec_Fetch_Mode": "no-cors"},
    ],
    ids=["foreign host", "host with a local beginning", "origin of this machine", "opaque origin", "page's request"],
)
def test_what_a_page_or_a_foreign_name_sends_is_refused_though_signed(
    local_aws: LocalAws, address: str, headers: dict
) -> None:
    split = urlsplit(address)
    code, answered, _ = raw(local_aws, path=f"{split.path}?{split.query}", **headers)
    assert code == 403
    assert not [name for name in answered if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path", ["/", "/front/a", "/_ministack/health", "/_ministack/reset", "/_localstack/health", "/health"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_nothing_answers_without_a_signature(local_aws: LocalAws, path: str, method: str) -> None:
    code, answered, _ = raw(local_aws, method=method, path=path)
    assert code == 403
    assert not [name for name in answered if name.startswith("access-control-")]


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {}], ids=str)
def test_a_strangers_body_is_not_read(local_aws: LocalAws, headers: dict[str, str]) -> None:
    port = urlsplit(local_aws.endpoint_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = {"Host": f"localhost:{port}", "Content-Length": str(1 << 34), **headers}
        lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 403")


def test_another_key_or_a_wrong_secret_is_refused(local_aws: LocalAws) -> None:
    import boto3

    for identifier, secret, code in (
        ("test", "test", "InvalidAccessKeyId"),
        (local_aws.access_key_id, "test", "SignatureDoesNotMatch"),
    ):
        session = boto3.session.Session(identifier, secret, region_name="us-east-1")
        for service, call in (
            ("s3", "list_buckets"),
            ("sagemaker", "list_models"),
            ("sqs", "list_queues"),
            ("iam", "list_roles"),
        ):
            client = session.client(
                service, endpoint_url=local_aws.endpoint_url, config=Config(retries={"max_attempts": 0})
            )
            with pytest.raises(ClientError) as caught:
                getattr(client, call)()
            assert caught.value.response["Error"]["Code"] == code, service


def test_objects_of_all_sizes_and_styles_come_through(local_aws: LocalAws, address: str) -> None:
    s3 = local_aws.client("s3")
    body = os.urandom(9_000_000)
    s3.put_object(Bucket="front", Key="big", Body=body)
    assert s3.get_object(Bucket="front", Key="big", Range="bytes=5-9")["Body"].read() == body[5:10]
    named = replace(local_aws, endpoint_url=local_aws.endpoint_url.replace("127.0.0.1", "localhost"))
    by_host = named.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}))
    split = urlsplit(by_host.generate_presigned_url("get_object", Params={"Bucket": "front", "Key": "big"}))
    assert split.netloc.startswith("front.localhost:")
    assert raw(local_aws, path=f"{split.path}?{split.query}", Host=split.netloc)[2] == body
    assert s3.list_objects_v2(Bucket="front", Prefix="a b/")["Contents"][0]["Key"] == "a b/ü+x"
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket="front", Key="nothing")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_the_state_is_the_users_own_and_the_server_listens_on_loopback(local_aws: LocalAws) -> None:
    folder = local_aws.home / "local"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("key.json", "server.json", "sagemaker.db"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    process = psutil.Process(status().pid)
    listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert "PYTEST_CURRENT_TEST" not in process.environ()


def test_many_processes_that_call_at_once_get_one_server(local_aws: LocalAws) -> None:
    script = "from stepforge.local import ensure_up, status; print(ensure_up().endpoint_url, status().pid)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["sdk", "jobs"])}
    calls = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {call.communicate()[0].strip() for call in calls} == {f"{ensure_up().endpoint_url} {status().pid}"}


def test_a_registered_image_is_seen_by_the_running_server(local_aws: LocalAws) -> None:
    sagemaker = local_aws.client("sagemaker")
    with pytest.raises(ClientError, match="not registered to serve"):
        sagemaker.create_model(
            ModelName="late",
            PrimaryContainer={"Image": "late/image:1"},
            ExecutionRoleArn="arn:aws:iam::000000000000:role/r",
        )
    register_images({"late/image:2": Image(argv_serve=("python", "-c", "pass"))})
    sagemaker.create_model(
        ModelName="late",
        PrimaryContainer={"Image": "late/image:1"},
        ExecutionRoleArn="arn:aws:iam::000000000000:role/r",
    )
