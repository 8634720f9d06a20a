"""Which names of fields, options and headers say that their value is secret, and which values are none all the same."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Kind = Literal["secret", "perhaps", "header", "phone", "number"]
"""`secret`: any value but a placeholder. `perhaps`: one that looks made by a machine; `header`: so, with spaces in it.
`phone`, `number`: digits."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SPLIT = re.compile(r"[^a-z0-9]+")
_WITHIN = re.compile(
    r"passw(?:or[dt]|d)|passphrase|passcode|kennwort|contrasena|apikey|secretkey|accesskey|privatekey|accountkey"
    r"|clientsecret|authtoken|accesstoken|refreshtoken|sessiontoken|bearertoken|connectionstring|dbpass"
)
_SECRET = {"secret", "pwd", "passwd", "password", "pswd"}
_KEYS = {
    "api", "access", "secret", "private", "account", "signing", "encryption", "master", "auth", "license", "ssh",
    "subscription", "service", "storage", "webhook", "deploy", "gpg", "server", "openai", "anthropic", "wandb",
}  # fmt: skip
_PERHAPS = {
    "token", "pat", "credential", "credentials", "signature", "sig", "auth", "pass",
    "passwort", "jwt", "bearer", "dsn", "sas", "session", "nonce", "webhook",
}  # fmt: skip
_HEADERS = {"authorization", "cookie", "cookies"}
_PHONE = {"phone", "telephone", "tel", "mobile", "cell", "cellphone", "fax", "msisdn", "whatsapp", "sms"}
_NUMBER = {"cvv", "cvc", "ssn", "otp", "pan"}
_ABOUT = {
    "arn", "name", "names", "id", "ids", "uri", "url", "path", "file", "files", "dir", "folder", "length", "len",
    "count", "size", "type", "kind", "version", "versions", "expires", "expiry", "expiration", "ttl", "policy",
    "rotation", "manager", "provider", "field", "fields", "class", "index", "limit", "usage", "at", "seconds", "days",
    "age", "status", "state", "required", "enabled", "present", "source", "store", "format", "template", "hint",
    "error", "errors", "per", "rate", "tokens", "embedding", "embeddings", "method", "mode", "scheme", "region",
    "sha256", "digest", "algorithm", "model", "dtype", "shape", "strategy", "label", "labels", "stage", "timeout",
}  # fmt: skip
"""A name that ends with one of these is about a secret, and holds none."""
_OF_TEXT = {
    "next", "pad", "eos", "bos", "unk", "mask", "sep", "cls", "max", "min", "stop", "new", "last", "first", "num",
    "image", "special", "prompt", "completion", "start", "end", "continuation", "pagination", "idempotency", "request",
    "step", "target", "current", "input", "output", "unexpected", "word", "forward", "backward", "nextforward",
}  # fmt: skip
"""Tokens of a tokenizer, of pages and of repeated requests."""


@lru_cache(maxsize=4096)
def kind_of(name: str) -> Kind | None:
    """What a name says of its value; None where it says nothing.

    >>> kind_of("AWS_SECRET_ACCESS_KEY"), kind_of("x-api-key"), kind_of("sessionToken"), kind_of("pad_token")
    ('secret', 'secret', 'secret', None)
    >>> kind_of("secretArn"), kind_of("completion_tokens"), kind_of("phoneNumber")
    (None, None, 'phone')
    """
    words = [word for word in _SPLIT.split(_CAMEL.sub("_", name[-120:]).lower()) if word]
    if not words:
        return None
    if words[-1] in _ABOUT and not (words[-1] == "id" and words[-3:-1] == ["access", "key"]):
        return None
    if _WITHIN.search("".join(words)) or _SECRET.intersection(words):
        return "secret"
    if any(second == "key" and first in _KEYS for first, second in pairwise(words)):
        return "secret"
    if words[-1] in _HEADERS:
        return "header"
    if _PERHAPS.intersection(words):
        return None if words[-1] == "token" and len(words) > 1 and words[-2] in _OF_TEXT else "perhaps"
    if _PHONE.intersection(words):
        return "phone"
    return "number" if _NUMBER.intersection(words) else None


def names_a_secret(name: str) -> bool:
    """Whether whatever stands under this name is to be kept secret, without a look at the value.

    >>> [names_a_secret(name) for name in ("DB_PASSWORD", "hf_token", "apiKey", "pad_token", "session", "SECRET_ARN")]
    [True, True, True, False, False, False]
    """
    kind = kind_of(name)
    return kind in ("secret", "header") or (kind == "perhaps" and bool(_CREDENTIAL.search(name)))


def is_about(name: str) -> bool:
    """Whether a name beside a secret tells of it, its length or where it lies, and does not hold it."""
    words = _SPLIT.split(_CAMEL.sub("_", name[-120:]).lower())
    return words[-1] in _ABOUT


_CREDENTIAL = re.compile(r"(?i)(?:token|credentials?|jwt|bearer)$")
_SAYS_NOTHING = {
    "none", "null", "nil", "true", "false", "yes", "no", "on", "off", "str", "string", "text", "bytes", "int",
    "required", "missing", "invalid", "incorrect", "expired", "empty", "unset", "set", "changed", "rotated",
    "wrong", "ok", "hidden", "redacted", "removed", "optional", "default", "any", "unknown", "found", "denied",
    "disabled", "enabled", "absent", "given", "not", "is", "was", "must", "has", "the", "an", "basic", "bearer",
    "digest", "negotiate", "object", "undefined", "todo",
}  # fmt: skip
_REFERENCES = (
    "$", "<", "%", "{", "[redacted:", "arn:", "os.", "self.", "env.", "environ", "settings.", "config.", "args.",
    "vault:", "ssm:", "secretsmanager:", "s3://", "file://", "/run/secrets/", "resolve:", "...",
)  # fmt: skip
_CODE = re.compile(r"[A-Za-z_]\w*+(?:\.[A-Za-z_]\w*+)+")
_LETTERS = re.compile(r"[A-Za-z]")
_DIGIT = re.compile(r"\d")


def is_secret(kind: Kind, value: str, *, name: str = "", quoted: bool = True) -> bool:
    """Whether a value under such a name is to be hidden. `quoted` is False where it stands bare, as code may."""
    plain = value.strip().strip("\"'`")
    lower = plain.lower()
    if not plain or lower in _SAYS_NOTHING or lower.startswith(_REFERENCES) or len(set(plain)) == 1:
        return False
    if not quoted and (lower == name.lower() or _CODE.fullmatch(plain)):
        return False
    if kind == "secret":
        return True
    digits = len(_DIGIT.findall(plain))
    if kind == "phone":
        return 7 <= digits <= 15
    if kind == "number":
        return digits >= 3
    if kind == "header":
        plain = plain.replace(" ", "")
        lower = plain.lower()
    if len(plain) < 8 or not _LETTERS.search(plain) or " " in plain or lower.startswith(("http://", "https://", "/")):
        return False
    mixed = lower != plain and plain.upper() != plain
    return bool(digits) or (mixed and len(plain) >= 12) or len(plain) >= 32
