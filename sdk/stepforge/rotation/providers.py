"""What each provider can do about its keys: make one, try one, take old ones away. No client library: few calls.

PROVIDERS
├── openai         a service account per key, made by a key that may administer the project; else handed in
├── openai-admin   that key: handed in
├── vertex         a key of the service account, made with the current one
├── anthropic      handed in: its API lists and disables keys, and makes none
└── hugging-face   handed in: there is no API for tokens

No message here ever has a key or an answer's body in it.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from stepforge.errors import InvalidInput, ProviderRefused, ProviderUnavailable

_SECONDS = 20.0
_GONE = 404


class Keyholder(Protocol):
    def create(self, current: str | None, token: str) -> str | None:
        """A new key beside the current one; None where a program cannot make one. Again with the same token: the key
        of before is taken away, since nobody kept it."""

    def test(self, key: str) -> None:
        """Raises ProviderRefused where the provider does not take the key, ProviderUnavailable where nobody knows."""

    def revoke_others(self, kept: Mapping[str, str], *, current: str) -> None:
        """Take away what earlier rotations made but `kept`: version to key, of which `current` is one."""


class HandedIn:
    """A provider whose keys people make: only tested here."""

    def __init__(self, url: str, header: Callable[[str], Mapping[str, str]], *, name: str) -> None:
        self._url, self._header, self._name = url, header, name

    def create(self, current: str | None, token: str) -> str | None:
        return None

    def test(self, key: str) -> None:
        _request(self._name, "GET", self._url, headers=self._header(key))

    def revoke_others(self, kept: Mapping[str, str], *, current: str) -> None:
        """The person who handed the new key in takes the old one away."""


class OpenAi:
    """https://platform.openai.com/docs/api-reference/project-service-accounts"""

    def __init__(self, base: str, *, project: str | None, admin_key: Callable[[], str] | None, stem: str) -> None:
        self._base, self._project, self._admin_key, self._stem = base.rstrip("/"), project, admin_key, stem

    def create(self, current: str | None, token: str) -> str | None:
        if self._project is None or self._admin_key is None:
            return None
        name = self._stem + token
        for account in self._accounts():
            if account["name"] == name:
                self._delete(account["id"])
        answer = self._administer("POST", "", {"name": name})
        return str(answer["api_key"]["value"])

    def test(self, key: str) -> None:
        _request("OpenAI", "GET", f"{self._base}/v1/models", headers=_bearer(key))

    def revoke_others(self, kept: Mapping[str, str], *, current: str) -> None:
        if self._project is None or self._admin_key is None:
            return
        names = {self._stem + version for version in kept}
        for account in self._accounts():
            if account["name"].startswith(self._stem) and account["name"] not in names:
                self._delete(account["id"])

    def _accounts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self._administer("GET", f"?limit=100{f'&after={quote(after)}' if after else ''}")
            found += page["data"]
            if not page.get("has_more"):
                return found
            after = page["last_id"]

    def _delete(self, account: str) -> None:
        self._administer("DELETE", f"/{quote(account)}", gone=True)

    def _administer(self, method: str, rest: str, body: Any = None, *, gone: bool = False) -> Any:
        assert self._admin_key is not None and self._project is not None  # noqa: PT018
        url = f"{self._base}/v1/organization/projects/{quote(self._project)}/service_accounts{rest}"
        return _request("OpenAI", method, url, headers=_bearer(self._admin_key()), body=body, gone=gone)


class Vertex:
    """A service account's key, as the JSON file that Google gives. The account is stepforge's alone: other keys go.

    https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys
    """

    _SCOPE = "https://www.googleapis.com/auth/cloud-platform"
    TRIES, PAUSE_SECONDS = 7, 10.0
    """A new key works after up to a minute."""

    def __init__(self, base: str, token_url: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._base, self._token_url, self._pause = base.rstrip("/"), token_url, pause

    def create(self, current: str | None, token: str) -> str | None:
        if current is None:
            return None
        key = _service_account(current)
        url = f"{self._base}/v1/projects/-/serviceAccounts/{quote(key['client_email'])}/keys"
        answer = _request("Google", "POST", url, headers=_bearer(self._access(key)), body={})
        return base64.b64decode(answer["privateKeyData"]).decode()

    def test(self, key: str) -> None:
        for tried in range(1, self.TRIES + 1):
            try:
                self._access(_service_account(key))
                return
            except ProviderRefused:
                if tried == self.TRIES:
                    raise
                self._pause(self.PAUSE_SECONDS)

    def revoke_others(self, kept: Mapping[str, str], *, current: str) -> None:
        key = _service_account(kept[current])
        headers = _bearer(self._access(key))
        keep = {_service_account(value)["private_key_id"] for value in kept.values()}
        account = f"{self._base}/v1/projects/-/serviceAccounts/{quote(key['client_email'])}/keys"
        listed = _request("Google", "GET", f"{account}?keyTypes=USER_MANAGED", headers=headers)
        for name in [item["name"] for item in listed.get("keys", [])]:
            if name.rpartition("/")[2] not in keep:
                _request("Google", "DELETE", f"{self._base}/v1/{quote(name)}", headers=headers, gone=True)

    def _access(self, key: Mapping[str, str]) -> str:
        """An access token for a signed statement of who we are (RFC 7523)."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        now = int(time.time())
        claims = {
            "iss": key["client_email"],
            "scope": self._SCOPE,
            "aud": self._token_url,
            "iat": now,
            "exp": now + 600,
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": key["private_key_id"]}
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
        private = serialization.load_pem_private_key(key["private_key"].encode(), password=None)
        if not isinstance(private, rsa.RSAPrivateKey):
            raise InvalidInput("the service account's key is no RSA key: hand in the JSON file as Google gave it")
        signature = _b64(private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": f"{signed}.{signature}"}
        return str(_request("Google", "POST", self._token_url, form=form)["access_token"])


def _openai(base: str | None, **given: Any) -> Keyholder:
    return OpenAi(base or "https://api.openai.com", **given)


def _openai_admin(base: str | None, **_: Any) -> Keyholder:
    url = f"{base or 'https://api.openai.com'}/v1/organization/projects?limit=1"
    return HandedIn(url, lambda key: _bearer(key), name="OpenAI")


def _vertex(base: str | None, **_: Any) -> Keyholder:
    return Vertex(base or "https://iam.googleapis.com", f"{base or 'https://oauth2.googleapis.com'}/token")


def _anthropic(base: str | None, **_: Any) -> Keyholder:
    def header(key: str) -> Mapping[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    return HandedIn(f"{base or 'https://api.anthropic.com'}/v1/models", header, name="Anthropic")


def _hugging_face(base: str | None, **_: Any) -> Keyholder:
    return HandedIn(f"{base or 'https://huggingface.co'}/api/whoami-v2", lambda key: _bearer(key), name="Hugging Face")


PROVIDERS: dict[str, Callable[..., Keyholder]] = {
    "openai": _openai,
    "openai-admin": _openai_admin,
    "anthropic": _anthropic,
    "hugging-face": _hugging_face,
    "vertex": _vertex,
}
"""Provider to what makes its keyholder: `(base, project=, admin_key=, stem=)`; base None is its own address."""


def _service_account(text: str) -> dict[str, str]:
    try:
        plain = json.loads(text)
        return {name: plain[name] for name in ("client_email", "private_key", "private_key_id")}
    except (ValueError, KeyError, TypeError):
        # `from None`: the text is a key.
        raise InvalidInput(
            "what is kept for vertex is no key of a service account: hand in the JSON file as Google gave it"
        ) from None


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _request(
    provider: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    form: Mapping[str, str] | None = None,
    gone: bool = False,
) -> Any:
    """The answer's JSON. `gone`: that there is no such thing is success."""
    data = urlencode(form).encode() if form else None if body is None else json.dumps(body).encode()
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind, **(headers or {})})
    call = f"{provider} {method} {urlsplit(url).path}"
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        if gone and error.code == _GONE:
            return None
        if error.code in (408, 429) or error.code >= 500:
            raise ProviderUnavailable(f"{call}: {error.code}. It is tried again with the next rotation") from None
        raise ProviderRefused(f"{call}: {error.code}. Check the key and what it may do") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise ProviderUnavailable(
            f"{call}: no answer ({type(error).__name__}). Check the way out of the network"
        ) from None
    try:
        return json.loads(text) if text else None
    except ValueError:
        raise ProviderUnavailable(f"{call}: the answer is no JSON") from None
