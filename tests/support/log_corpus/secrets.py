"""Secrets in the formats that their providers document, made up."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

Random = random.Random
_ALNUM = string.ascii_letters + string.digits
_URLSAFE = _ALNUM + "-_"
_BASE64 = _ALNUM + "+/"
_HEX = "0123456789abcdef"
_UPPER = string.ascii_uppercase + string.digits
_NAMES = [
    "ann",
    "bob",
    "carol",
    "dmitri",
    "eve",
    "farid",
    "grace",
    "hana",
    "ivan",
    "jose",
    "kim",
    "lars",
    "mei",
    "nadia",
    "omar",
    "pia",
    "quinn",
    "rosa",
    "sven",
    "tove",
]
_HOSTS = [
    "example.org",
    "mail.example.com",
    "acme.co.uk",
    "uni-bonn.de",
    "corp.acme.io",
    "post.example.net",
    "firma.at",
    "kth.se",
]
_WORDS = [
    "horse",
    "battery",
    "staple",
    "winter",
    "dragon",
    "monkey",
    "sunshine",
    "coffee",
    "purple",
    "river",
    "castle",
    "wizard",
    "maple",
]


def text(random_: Random, alphabet: str, length: int) -> str:
    return "".join(random_.choice(alphabet) for _ in range(length))


def email(random_: Random) -> str:
    first, last = random_.choice(_NAMES), random_.choice(_NAMES)
    number = random_.randrange(100)
    forms = [f"{first}.{last}", f"{first}{number}", f"{first}+aws", f"{first}_{last}", f"{first}-{last}"]
    return f"{random_.choice(forms)}@{random_.choice(_HOSTS)}"


def phone(random_: Random) -> str:
    """ITU-T E.123 and E.164, and the North American numbering plan."""
    digit = lambda n: text(random_, string.digits, n)  # noqa: E731
    area, office = f"{random_.randrange(2, 10)}{digit(2)}", f"{random_.randrange(2, 10)}{digit(2)}"
    return random_.choice(
        [
            f"+1{area}{office}{digit(4)}",
            f"+1 ({area}) {office}-{digit(4)}",
            f"+1-{area}-{office}-{digit(4)}",
            f"({area}) {office}-{digit(4)}",
            f"{area}-{office}-{digit(4)}",
            f"+49 30 {digit(6)}",
            f"+49 151 {digit(8)}",
            f"+44 20 {digit(4)} {digit(4)}",
            f"+33 6 {digit(2)} {digit(2)} {digit(2)} {digit(2)}",
            f"+81-3-{digit(4)}-{digit(4)}",
            f"+91 98{digit(3)} {digit(5)}",
        ]
    )


def card(random_: Random) -> str:
    """ISO/IEC 7812: an issuer's range and Luhn's check digit."""
    prefix = random_.choice(["4", "51", "55", "2221", "34", "37", "6011", "65", "3530"])
    length = 15 if prefix in ("34", "37") else 16
    body = prefix + text(random_, string.digits, length - len(prefix) - 1)
    total = sum(
        (int(d) * 2 - 9 * (int(d) > 4)) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(body))
    )  # the check digit makes the sum a multiple of ten
    number = body + str(-total % 10)
    between = random_.choice(["", "", " ", "-"])
    if length == 15:
        return between.join([number[:4], number[4:10], number[10:]])
    return between.join(number[i : i + 4] for i in range(0, 16, 4))


def jwt(random_: Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"sub": text(random_, string.digits, 8), "iat": random_.randrange(10**9), "name": random_.choice(_NAMES)}
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{text(random_, _URLSAFE, 43)}"


def pem(random_: Random) -> str:
    kind = random_.choice(["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    lines = [text(random_, _BASE64, 64) for _ in range(random_.randrange(3, 8))]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, text(random_, _BASE64, 20) + "==", f"-----END {kind}-----"])


def password(random_: Random) -> str:
    """As people and generators make them."""
    word = random_.choice(_WORDS)
    return random_.choice(
        [
            f"{word}{random_.randrange(10, 9999)}",
            f"{word.title()}{random_.randrange(100)}!",
            f"{word}-{random_.choice(_WORDS)}-{random_.choice(_WORDS)}",
            text(random_, _ALNUM, random_.randrange(8, 33)),
            text(random_, _ALNUM + "!#%*+-_^~?", random_.randrange(10, 25)) + "7",
            word.replace("o", "0").replace("a", "4").replace("i", "1").title() + "$9",
        ]
    )


def basic(random_: Random) -> str:
    return base64.b64encode(f"{random_.choice(_NAMES)}:{text(random_, _ALNUM, 12)}".encode()).decode()


MAKERS: dict[str, Callable[[Random], str]] = {
    "email": email,
    "phone": phone,
    "card": card,
    "jwt": jwt,
    "pem": pem,
    "password": password,
    "url_password": lambda r: text(r, _ALNUM + "-_.!*", r.randrange(8, 24)) + "x",
    "bearer": lambda r: text(r, _ALNUM + "-._", r.randrange(24, 64)) + "A1b",
    "basic": basic,
    "token": lambda r: text(r, _ALNUM, r.randrange(24, 48)) + "a1B",
    "aws_key": lambda r: r.choice(["AKIA", "ASIA"]) + text(r, string.ascii_uppercase + "234567", 16),
    "aws_secret": lambda r: text(r, _BASE64, 39) + "4",
    "aws_session": lambda r: r.choice(["IQoJb3JpZ2luX2Vj", "FwoGZXIvYXdzE"]) + text(r, _BASE64, 300) + "==",
    "google_key": lambda r: "AIza" + text(r, _URLSAFE, 34) + "k",
    "google_oauth": lambda r: "ya29." + text(r, _URLSAFE, 120),
    "google_secret": lambda r: "GOCSPX-" + text(r, _URLSAFE, 28),
    "azure_account_key": lambda r: text(r, _BASE64, 86) + "==",
    "azure_client_secret": lambda r: text(r, _ALNUM, 3) + r.choice("78") + "Q~" + text(r, _ALNUM + "_-", 33) + "z",
    "openai": lambda r: "sk-" + text(r, _ALNUM, 20) + "T3BlbkFJ" + text(r, _ALNUM, 20),
    "openai_project": lambda r: "sk-proj-" + text(r, _URLSAFE, 74) + "T3BlbkFJ" + text(r, _URLSAFE, 73) + "A",
    "anthropic": lambda r: "sk-ant-api03-" + text(r, _URLSAFE, 93) + "AA",
    "huggingface": lambda r: "hf_" + text(r, string.ascii_letters, 34),
    "github": lambda r: r.choice(["ghp_", "gho_", "ghs_"]) + text(r, _ALNUM, 36),
    "github_fine": lambda r: "github_pat_" + text(r, _ALNUM, 22) + "_" + text(r, _ALNUM, 59),
    "gitlab": lambda r: "glpat-" + text(r, _ALNUM, 20),
    "slack": lambda r: f"xoxb-{text(r, string.digits, 12)}-{text(r, string.digits, 13)}-{text(r, _ALNUM, 24)}",
    "stripe": lambda r: r.choice(["sk_live_", "rk_live_", "sk_test_"]) + text(r, _ALNUM, 24),
    "databricks": lambda r: "dapi" + text(r, _HEX, 32),
    "groq": lambda r: "gsk_" + text(r, _ALNUM, 52),
    "hex_key": lambda r: text(r, _HEX, r.choice([32, 40, 64])),
}
