"""Rotation of providers' keys, against moto's Secrets Manager and a provider that speaks HTTP."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto import mock_aws

from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable
from stepforge.rotation import PROVIDERS, HandIn, Rotation, rotate
from stepforge.rotation.providers import OpenAi, Vertex

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
HAND_IN = "/stepforge-keys/dev/openai"
ADMIN = "sk-admin-of-tests"
PROJECT = "/v1/organization/projects/proj_1/service_accounts"


class Provider:
    """OpenAI's service accounts, Google's keys and tokens, in memory."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, str]] = {}
        self.valid: set[str] = set()
        self.google: dict[str, Any] = {}
        """Id of a key to its public half."""
        self.made = 0
        self.failing = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, body = provider.answer(self, self.rfile.read(length))
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        path, method = urlsplit(request.path).path, request.command
        bearer = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.failing:
            self.failing -= 1
            return 503, {}
        if path == "/v1/models":
            return (200, {"data": []}) if {bearer, request.headers.get("x-api-key")} & self.valid else (401, {})
        if path.startswith(PROJECT):
            return self._service_account(method, path, bearer, body)
        if path == "/token":
            return self._token(body)
        return self._google_keys(method, path, bearer)

    def _service_account(self, method: str, path: str, bearer: str, body: bytes) -> tuple[int, Any]:
        if bearer != ADMIN:
            return 401, {}
        if method == "GET":
            return 200, {"data": [{"id": i, "name": a["name"]} for i, a in self.accounts.items()], "has_more": False}
        if method == "DELETE":
            gone = self.accounts.pop(path.rpartition("/")[2], None)
            self.valid.discard(gone["key"] if gone else "")
            return (200, {}) if gone else (404, {})
        self.made += 1
        identifier, key = f"svc-{self.made}", f"sk-svcacct-{self.made}"
        self.accounts[identifier] = {"name": json.loads(body)["name"], "key": key}
        self.valid.add(key)
        return 200, {"id": identifier, "api_key": {"value": key}}

    def service_account_file(self) -> str:
        self.made += 1
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.google[f"k{self.made}"] = private.public_key()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {"client_email": "s@p.iam.gserviceaccount.com", "private_key_id": f"k{self.made}"}
        return json.dumps({**account, "private_key": pem.decode()})

    def _token(self, body: bytes) -> tuple[int, Any]:
        signed, _, signature = parse_qs(body.decode())["assertion"][0].rpartition(".")
        header = json.loads(base64.urlsafe_b64decode(signed.partition(".")[0] + "=="))
        public = self.google.get(header["kid"])
        if public is None:
            return 400, {"error": "invalid_grant"}
        public.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return 200, {"access_token": f"token-of-{header['kid']}"}

    def _google_keys(self, method: str, path: str, bearer: str) -> tuple[int, Any]:
        if bearer.removeprefix("token-of-") not in self.google:
            return 401, {}
        if method == "GET":
            return 200, {"keys": [{"name": f"projects/p/serviceAccounts/s/keys/{key}"} for key in self.google]}
        if method == "DELETE":
            self.google.pop(path.rpartition("/")[2], None)
            return 200, {}
        return 200, {"privateKeyData": base64.b64encode(self.service_account_file().encode()).decode()}


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()


class Vault:
    """A secret and its rotations, as Secrets Manager drives them: a version without a value first, then the steps."""

    def __init__(self, keyholder: Any) -> None:
        self.secrets = boto3.client("secretsmanager", region_name="us-east-1")
        self.ssm = boto3.client("ssm", region_name="us-east-1")
        self.arn = self.secrets.create_secret(Name="stepforge/dev/openai")["ARN"]
        self.keyholder, self.begun = keyholder, 0

    def hand_in(self, key: str) -> None:
        self.ssm.put_parameter(Name=HAND_IN, Value=key, Type="SecureString", Overwrite=True)

    def begin(self) -> str:
        self.begun += 1
        return f"{self.begun:08d}-1111-2222-3333-444444444444"

    def step(self, step: str, token: str) -> None:
        event = Rotation(step=step, secret_id=self.arn, token=token)
        rotate(_WithEmptyPending(self.secrets, token), event, self.keyholder, HandIn(self.ssm, HAND_IN))

    def rotate(self, *, times: int = 1) -> str:
        token = self.begin()
        for step in STEPS:
            for _ in range(times):
                self.step(step, token)
        return token

    def value(self, stage: str = "AWSCURRENT") -> str:
        return str(self.secrets.get_secret_value(SecretId=self.arn, VersionStage=stage)["SecretString"])

    def stages(self) -> dict[str, list[str]]:
        return dict(self.secrets.describe_secret(SecretId=self.arn).get("VersionIdsToStages", {}))


class _WithEmptyPending:
    """moto's client, in which the version of a rotation exists before it has a value, as on AWS."""

    def __init__(self, client: Any, token: str) -> None:
        self._client, self._token = client, token

    def describe_secret(self, **request: Any) -> Any:
        answer = self._client.describe_secret(**request)
        stages = answer.setdefault("VersionIdsToStages", {})
        if self._token.startswith("0"):
            stages.setdefault(self._token, ["AWSPENDING"])
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


def openai(provider: Provider, **changes: Any) -> OpenAi:
    given = {"project": "proj_1", "admin_key": lambda: ADMIN, "stem": "stepforge-dev-"} | changes
    return OpenAi(provider.url, **given)


@pytest.mark.usefixtures("aws")
def test_the_first_key_is_the_one_that_was_handed_in(provider: Provider) -> None:
    vault = Vault(openai(provider, project=None))
    provider.valid.add("sk-by-hand")
    vault.hand_in("sk-by-hand")
    token = vault.rotate()
    assert (vault.value(), vault.stages()) == ("sk-by-hand", {token: ["AWSCURRENT"]})
    with pytest.raises(vault.ssm.exceptions.ParameterNotFound):
        vault.ssm.get_parameter(Name=HAND_IN)


@pytest.mark.usefixtures("aws")
def test_each_step_twice_makes_one_key(provider: Provider) -> None:
    vault = Vault(openai(provider))
    first = vault.rotate(times=2)
    assert (provider.made, vault.value(), vault.stages()) == (1, "sk-svcacct-1", {first: ["AWSCURRENT"]})


@pytest.mark.usefixtures("aws")
def test_the_key_before_still_works_and_the_one_before_that_is_gone(provider: Provider) -> None:
    vault = Vault(openai(provider))
    provider.accounts["other"] = {"name": "somebody-else", "key": "sk-theirs"}
    for expected in ({"sk-svcacct-1"}, {"sk-svcacct-1", "sk-svcacct-2"}, {"sk-svcacct-2", "sk-svcacct-3"}):
        vault.rotate()
        assert provider.valid == expected
    assert (vault.value(), vault.value("AWSPREVIOUS")) == ("sk-svcacct-3", "sk-svcacct-2")
    assert "other" in provider.accounts


@pytest.mark.usefixtures("aws")
def test_a_key_made_by_a_call_whose_answer_was_lost_is_not_left_behind(provider: Provider) -> None:
    vault = Vault(openai(provider))
    token = vault.begin()
    openai(provider).create(None, token)
    for step in STEPS:
        vault.step(step, token)
    assert (list(provider.accounts), provider.valid) == (["svc-2"], {"sk-svcacct-2"})


@pytest.mark.usefixtures("aws")
def test_a_key_that_does_not_work_never_becomes_current(provider: Provider) -> None:
    vault = Vault(openai(provider))
    vault.rotate()
    vault.hand_in("sk-mistyped")
    token = vault.begin()
    vault.step("createSecret", token)
    with pytest.raises(ProviderRefused) as refused:
        vault.step("testSecret", token)
    assert "sk-mistyped" not in str(refused.value)
    with pytest.raises(InvalidInput, match="start a rotation anew"):
        vault.step("finishSecret", token)
    assert vault.value() == "sk-svcacct-1"


@pytest.mark.usefixtures("aws")
def test_after_a_wrong_key_a_good_one_can_be_handed_in(provider: Provider) -> None:
    vault = Vault(PROVIDERS["anthropic"](provider.url))
    provider.valid |= {"sk-first", "sk-good"}
    vault.hand_in("sk-first")
    vault.rotate()
    vault.hand_in("sk-typo")
    with pytest.raises(ProviderRefused):
        vault.rotate()
    assert not [labels for labels in vault.stages().values() if labels == ["AWSPENDING"]]
    vault.hand_in("sk-good")
    vault.rotate()
    assert (vault.value(), vault.value("AWSPREVIOUS")) == ("sk-good", "sk-first")


@pytest.mark.usefixtures("aws")
def test_a_first_key_that_is_refused_is_never_stored_and_the_same_rotation_takes_the_next(provider: Provider) -> None:
    vault = Vault(PROVIDERS["anthropic"](provider.url))
    vault.hand_in("sk-typo")
    token = vault.begin()
    with pytest.raises(ProviderRefused):
        vault.step("createSecret", token)
    assert vault.stages() == {}
    provider.valid.add("sk-good")
    vault.hand_in("sk-good")
    for step in STEPS[:2]:
        vault.step(step, token)
    # It is current already, and it is tested all the same.
    provider.valid.clear()
    with pytest.raises(ProviderRefused):
        vault.step("testSecret", token)
    provider.valid.add("sk-good")
    for step in STEPS[2:]:
        vault.step(step, token)
    assert (vault.value(), vault.stages()) == ("sk-good", {token: ["AWSCURRENT"]})


@pytest.mark.usefixtures("aws")
def test_a_rotation_goes_on_after_an_outage(provider: Provider) -> None:
    vault = Vault(openai(provider))
    token = vault.begin()
    provider.failing = 1
    with pytest.raises(ProviderUnavailable):
        vault.step("createSecret", token)
    for step in STEPS:
        vault.step(step, token)
    assert vault.value() == "sk-svcacct-1"


@pytest.mark.usefixtures("aws")
def test_revoking_is_done_again_where_finish_was_cut_off_after_the_switch(provider: Provider) -> None:
    vault = Vault(openai(provider))
    vault.rotate()
    vault.rotate()
    token = vault.begin()
    for step in STEPS[:3]:
        vault.step(step, token)
    provider.failing = 0
    holder = vault.keyholder
    vault.keyholder = _CannotRevoke(holder)
    with pytest.raises(ProviderUnavailable):
        vault.step("finishSecret", token)
    assert (vault.value(), len(provider.valid)) == ("sk-svcacct-3", 3)
    vault.keyholder = holder
    vault.step("finishSecret", token)
    assert provider.valid == {"sk-svcacct-2", "sk-svcacct-3"}


class _CannotRevoke:
    def __init__(self, inner: OpenAi) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def revoke_others(self, kept: Any, *, current: str) -> None:
        raise ProviderUnavailable("cut off")


@pytest.mark.usefixtures("aws")
def test_without_a_key_by_hand_where_none_can_be_made_the_rotation_says_what_to_do(provider: Provider) -> None:
    vault = Vault(PROVIDERS["anthropic"](provider.url))
    with pytest.raises(InvalidInput, match=HAND_IN):
        vault.step("createSecret", vault.begin())


@pytest.mark.usefixtures("aws")
def test_a_key_that_was_handed_in_meanwhile_is_left_for_the_next_rotation(provider: Provider) -> None:
    vault = Vault(PROVIDERS["anthropic"](provider.url))
    provider.valid |= {"sk-ant-1", "sk-ant-2"}
    vault.hand_in("sk-ant-1")
    token = vault.begin()
    vault.step("createSecret", token)
    vault.hand_in("sk-ant-2")
    for step in STEPS[1:]:
        vault.step(step, token)
    assert vault.value() == "sk-ant-1"
    vault.rotate()
    assert vault.value() == "sk-ant-2"


@pytest.mark.usefixtures("aws")
def test_what_is_no_rotation_is_refused(provider: Provider) -> None:
    vault = Vault(openai(provider))
    with pytest.raises(InvalidInput, match="start a rotation anew"):
        vault.step("createSecret", "99999999-1111-2222-3333-444444444444")
    with pytest.raises(InvalidInput, match="createSecret has not come by"):
        vault.step("testSecret", vault.begin())


@pytest.mark.usefixtures("aws")
def test_a_service_account_of_vertex_rotates_its_own_keys(provider: Provider) -> None:
    vault = Vault(Vertex(provider.url, f"{provider.url}/token", pause=lambda _: None))
    vault.hand_in(provider.service_account_file())
    for expected in ({"k1"}, {"k1", "k2"}, {"k2", "k3"}):
        vault.rotate(times=2)
        assert set(provider.google) == expected
    assert json.loads(vault.value())["private_key_id"] == "k3"


def test_a_new_key_of_vertex_is_tried_until_google_knows_it(provider: Provider) -> None:
    key, public = provider.service_account_file(), provider.google.pop("k1")
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            provider.google["k1"] = public

    Vertex(provider.url, f"{provider.url}/token", pause=pause).test(key)
    assert sum(waited) == 30


def test_a_file_that_is_no_service_account_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidInput) as refused:
        Vertex("http://127.0.0.1:1", "http://127.0.0.1:1/token").test('{"private_key": "hunter2"}')
    assert "hunter2" not in str(refused.value)
