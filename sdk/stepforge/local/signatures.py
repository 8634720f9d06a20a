"""Signature Version 4, verified: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html

Header and query (presigned) form, one credential at a time. Signatures of single chunks in `aws-chunked` bodies are not
covered: the seed signature authenticates the caller.
"""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from stepforge.local.state import AccessKey

_SKEW_SECONDS = 15 * 60
_ALGORITHM = "AWS4-HMAC-SHA256"
_HEADER = re.compile(r"^AWS4-HMAC-SHA256 Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})$")


class Refused(Exception):
    """Why a request is not let in: an AWS error code and a message. Nothing about the expected signature is told."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Request:
    method: str
    raw_path: str
    """As sent, percent-encoded."""
    query: str
    """As sent, without the question mark."""
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes


@dataclass(frozen=True)
class Scope:
    region: str
    service: str


def claimed_scope(request: Request) -> Scope | None:
    """Which service a request says that it is signed for; not verified."""
    parts = (_credential(request) or "").split("/")
    return Scope(parts[-3], parts[-2]) if len(parts) >= 5 else None


def claimed_key(request: Request) -> str:
    """The id of the access key that a request says that it is signed with; not verified, empty where it names none."""
    return (_credential(request) or "").partition("/")[0]


def check_key(request: Request, key: AccessKey) -> None:
    """Refuse who does not even name the key, or lacks its session's token.

    Looks at the head alone, so that a stranger's body need not be read.
    """
    if "AWSAccessKeyId=" in request.query:
        raise Refused("InvalidRequest", "presigned with Signature Version 2: use Config(signature_version='s3v4')")
    credential = _credential(request)
    if credential is None:
        raise Refused("MissingAuthenticationToken", "Request is missing Authentication Token")
    if not hmac.compare_digest(credential.partition("/")[0].encode(), key.id.encode()):
        raise Refused("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if key.token is not None:
        given = _presigned(request).get("X-Amz-Security-Token", request.headers.get("x-amz-security-token", ""))
        if not hmac.compare_digest(given.encode(), key.token.encode()):
            raise Refused("InvalidToken", "The security token included in the request is invalid")


def _credential(request: Request) -> str | None:
    if query := _presigned(request):
        return query.get("X-Amz-Credential", "")
    found = _HEADER.match(request.headers.get("authorization", ""))
    return found.group(1) if found else None


def verify(request: Request, key: AccessKey, *, now: datetime | None = None) -> Scope:
    """The scope that the request was signed for. Raises Refused."""
    now = now or datetime.now(UTC)
    check_key(request, key)
    query = _presigned(request)
    if query:
        credential, signed, signature = (
            query.get(f"X-Amz-{name}", "") for name in ("Credential", "SignedHeaders", "Signature")
        )
        stamp, algorithm = query.get("X-Amz-Date", ""), query.get("X-Amz-Algorithm", "")
        lifetime = query.get("X-Amz-Expires", "")
        if algorithm != _ALGORITHM or not re.fullmatch(r"[0-9]{1,9}", lifetime):
            raise Refused(
                "AuthorizationQueryParametersError",
                f"X-Amz-Algorithm must be {_ALGORITHM} and X-Amz-Expires a number of seconds",
            )
    else:
        found = _HEADER.match(request.headers.get("authorization", ""))
        if found is None:
            raise Refused("MissingAuthenticationToken", "Request is missing Authentication Token")
        credential, signed, signature = found.groups()
        stamp, lifetime = request.headers.get("x-amz-date", ""), ""
    scope = credential.partition("/")[2]
    date, region, service = _scope(scope)
    _check_time(stamp, date, lifetime, now)
    if "host" not in signed.split(";"):
        raise Refused("SignatureDoesNotMatch", "The header host must be signed")
    payload = _payload_hash(request, presigned=bool(query))
    canonical = "\n".join(
        [
            request.method,
            _path(request.raw_path, service),
            _query(request.query),
            _headers(request.headers, signed),
            signed,
            payload,
        ]
    )
    text = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    if not hmac.compare_digest(_sign(key.secret, date, region, service, text).encode(), signature.encode()):
        raise Refused(
            "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided."
        )
    return Scope(region, service)


def _presigned(request: Request) -> dict[str, str]:
    if "X-Amz-Signature=" not in request.query:
        return {}
    return dict(parse_qsl(request.query, keep_blank_values=True))


def _scope(scope: str) -> tuple[str, str, str]:
    parts = scope.split("/")
    if len(parts) != 4 or parts[3] != "aws4_request":
        raise Refused("SignatureDoesNotMatch", "Credential must be {key}/{date}/{region}/{service}/aws4_request")
    return parts[0], parts[1], parts[2]


def _check_time(stamp: str, date: str, lifetime: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise Refused("SignatureDoesNotMatch", "X-Amz-Date must be given as YYYYMMDDTHHMMSSZ") from error
    if not stamp.startswith(date):
        raise Refused("SignatureDoesNotMatch", "Date in Credential scope does not match YYYYMMDD from X-Amz-Date")
    age = (now - signed_at).total_seconds()
    if lifetime:
        if age > int(lifetime) or int(lifetime) > 7 * 86_400:
            raise Refused("AccessDenied", "Request has expired")
    elif age > _SKEW_SECONDS:
        raise Refused(
            "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        )
    if age < -_SKEW_SECONDS:
        raise Refused(
            "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        )


def _payload_hash(request: Request, *, presigned: bool) -> str:
    given = request.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD" if presigned else "")
    if re.fullmatch(r"[0-9a-f]{64}", given) or not given:
        actual = hashlib.sha256(request.body).hexdigest()
        if given and actual != given:
            raise Refused(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        return actual
    if given == "UNSIGNED-PAYLOAD" or given.startswith("STREAMING-"):
        return given
    raise Refused("InvalidArgument", f"x-amz-content-sha256 is {given!r}: give the SHA-256 of the body")


def _path(raw: str, service: str) -> str:
    """S3 signs the path as it is sent; every other service normalises and encodes it once more."""
    if service == "s3":
        return raw or "/"
    normal = posixpath.normpath(raw) if raw else "/"
    normal = "/" + normal.lstrip("/") + ("/" if raw.endswith("/") and normal.strip("/") else "")
    return quote(normal, safe="/-_.~")


def _query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs if name != "X-Amz-Signature"
    )
    return "&".join(f"{name}={value}" for name, value in encoded)


def _headers(headers: Mapping[str, str], signed: str) -> str:
    return "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed.split(";"))


def _sign(secret: str, date: str, region: str, service: str, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
